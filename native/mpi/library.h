// A library of MPI, opened when the program runs: nothing of MPI is needed to compile this package. Of the interface it
// declares the few functions that are used, for the three kinds of library that there are, whose handles differ:
//
//   Open MPI 3 to 5                  handles are addresses of objects in the library
//   MPICH, and those like it         handles are integers
//   MPI 5's standard interface       handles are small numbers in the place of addresses
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace fpl {
namespace mpi {

// An error of MPI's, in its own words.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What is used of MPI: the group of all processes, and bytes. Every call throws an Error when MPI reports one. All are
// for the thread that has called `init`, but for `abort`.
class Library {
 public:
  virtual ~Library() = default;

  virtual void init() = 0;
  virtual int rank() = 0;
  virtual int size() = 0;

  // Starts a collective, one at a time. `test` tells whether it is done, and moves it on: it must be called until it
  // is. The blocking forms are not used, as those of MPICH keep a core busy that the rank they wait for may need.
  virtual void allGather(const void* send, void* receive, int bytes) = 0;
  virtual void allToAll(const void* send, void* receive, int bytes) = 0;
  virtual void broadcast(void* data, int bytes, int root) = 0;
  virtual bool test() = 0;

  virtual void abort(int code) = 0;
  virtual void finalize() = 0;
};

// What a library is, before it is used.
struct Description {
  std::string version;  // its own words: "Open MPI v4.1.4, ...", "MPICH Version: ..."
  std::string handles;  // 'open-mpi', 'mpich' or 'standard'
};

// Throws a std::runtime_error that says why the library cannot be used.
Description describe(const std::string& path);
// Opens it for as long as the process lives.
std::unique_ptr<Library> open(const std::string& path);

}  // namespace mpi
}  // namespace fpl
