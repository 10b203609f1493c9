// What threads do for each number of a run: a reference to a function that the caller keeps until then. Unlike a
// std::function it allocates nothing, so a stage that has begun to write does not run out of memory between two runs.
// A Task is a parameter only: it refers to the work, and a variable or a member would outlive a lambda written in
// place.
#pragma once

#include <cstdint>

namespace fpl {

class Task {
 public:
  template <typename Work>
  Task(const Work& work) : work_(&work), call_(&callOn<Work>) {}

  void operator()(int64_t i) const { call_(work_, i); }

 private:
  template <typename Work>
  static void callOn(const void* work, int64_t i) {
    (*static_cast<const Work*>(work))(i);
  }

  const void* work_;
  void (*call_)(const void*, int64_t);
};

}  // namespace fpl
