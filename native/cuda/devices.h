// Which devices this build serves, which one the calling thread is on, and the kernels that are loaded on each.
#pragma once

#include <cstdint>
#include <string>

#include "tuning.h"

namespace fpl {
namespace cuda {

// Compute capability times ten: 75 for 7.5.
int capabilityOf(int device);
// Whether there is code for that device, and why not.
bool isServed(int device, std::string& reason);
// Throws where there is none.
void requireServed(int device);

// Multiprocessors of the current device, and the bytes of its second-level cache.
int multiprocessors();
int64_t cacheBytes();
// What tuning.h says of the code that the current device runs, which an older one's may be.
Tuning currentTuning();

// Loads all kernels there, unless that has been done.
void loadKernels(int device);

// A device that is in use, for questions that are of none: to ask them where no context is current would make one on
// device 0.
constexpr int kAnyDevice = -1;  // one is current
constexpr int kNoDevice = -2;   // nobody has used any
int deviceInUse();

// Makes that device the calling thread's as long as it lives; kAnyDevice leaves it as it is. What was current before,
// which may be the caller's own context, is current again afterwards.
class CurrentDevice {
 public:
  CurrentDevice(int device, const char* doing);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;

 private:
  bool restores_ = false;
  void* before_ = nullptr;
};

}  // namespace cuda
}  // namespace fpl
