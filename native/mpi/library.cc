#include "library.h"

#if defined(_WIN32)

namespace fpl {
namespace mpi {

Description describe(const std::string&) { throw std::runtime_error("MPI is not supported on Windows"); }
std::unique_ptr<Library> open(const std::string&) { throw std::runtime_error("MPI is not supported on Windows"); }

}  // namespace mpi
}  // namespace fpl

#else

#include <dlfcn.h>
#include <signal.h>

#include <array>
#include <utility>
#include <vector>

#include "../core/library_handle.h"

namespace fpl {
namespace mpi {
namespace {

// The longest strings of any library.
constexpr size_t kLongestVersion = 8192;
constexpr size_t kLongestError = 512;

// Gives signals back the handlers that they had when it was made. Libraries of MPI, and what they load, take SIGSEGV
// and others to print where a program has crashed. In Node.js that one belongs to WebAssembly.
class SignalHandlers {
 public:
  SignalHandlers() {
    for (size_t i = 0; i < saved_.size(); ++i) saved_[i].known = sigaction(int(i) + 1, nullptr, &saved_[i].action) == 0;
  }
  SignalHandlers(const SignalHandlers&) = delete;
  SignalHandlers& operator=(const SignalHandlers&) = delete;
  ~SignalHandlers() {
    for (size_t i = 0; i < saved_.size(); ++i) {
      if (saved_[i].known) sigaction(int(i) + 1, &saved_[i].action, nullptr);
    }
  }

 private:
  struct Saved {
    bool known;
    struct sigaction action;
  };
  std::array<Saved, 31> saved_;
};

// An open library, which is closed again unless it is kept.
class File {
 public:
  explicit File(const std::string& path) : path_(path) {
    const SignalHandlers before;
    std::string problem;
    if (!handle_.open(path, problem)) throw std::runtime_error(problem);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (!isKept_) handle_.close();
  }

  void* find(const char* name) const { return handle_.find(name); }

  template <class Function>
  void find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(find(name));
    if (!function) throw std::runtime_error(path_ + " has no " + name);
  }

  // Leaves it open. With `shared`, the libraries that it opens later find its symbols: Open MPI's plug-ins need them.
  void keep(bool shared) {
    if (shared) dlopen(path_.c_str(), RTLD_NOW | RTLD_GLOBAL);
    isKept_ = true;
  }

 private:
  LibraryHandle handle_;
  bool isKept_ = false;
  std::string path_;
};

std::string handlesOf(const File& file) {
  if (file.find("ompi_mpi_comm_world")) return "open-mpi";
  // The same library may have its own interface in one file and the standard one in another: -1 is the answer there.
  int major = -1, minor = -1;
  if (const auto version = reinterpret_cast<int (*)(int*, int*)>(file.find("MPI_Abi_get_version"))) {
    if (version(&major, &minor) != 0) major = -1;
  }
  return major >= 1 ? "standard" : "mpich";
}

std::string versionOf(const File& file) {
  int (*get)(char*, int*);
  file.find("MPI_Get_library_version", get);
  std::vector<char> text(kLongestVersion + 1);
  int length = 0;
  get(text.data(), &length);
  return text.data();
}

// The values of a kind of library.
template <class Handle>
struct Values {
  Handle world, byte, errorsReturn;
  void* ignoreStatus;
  int funneled, serialized;
};

template <class Handle>
class LibraryOf : public Library {
 public:
  LibraryOf(const File& file, const Values<Handle>& values) : values_(values) {
    file.find("MPI_Initialized", initialized_);
    file.find("MPI_Init_thread", initThread_);
    file.find("MPI_Comm_set_errhandler", setErrorHandler_);
    file.find("MPI_Error_string", errorString_);
    file.find("MPI_Comm_rank", rank_);
    file.find("MPI_Comm_size", size_);
    file.find("MPI_Iallgather", allGather_);
    file.find("MPI_Ialltoall", allToAll_);
    file.find("MPI_Ibcast", broadcast_);
    file.find("MPI_Test", test_);
    file.find("MPI_Abort", abort_);
    file.find("MPI_Finalize", finalize_);
  }

  void init() override {
    int already = 0;
    check("MPI_Initialized", initialized_(&already));
    if (already) {
      throw Error("MPI can be started only once in a process, and has been, perhaps by another copy of this package");
    }
    int granted = 0;
    const SignalHandlers before;
    check("MPI_Init_thread", initThread_(nullptr, nullptr, values_.serialized, &granted));
    check("MPI_Comm_set_errhandler", setErrorHandler_(values_.world, values_.errorsReturn));
    if (granted < values_.funneled) {
      finalize();
      throw Error("the MPI library allows no threads besides the one that calls it");
    }
  }

  int rank() override {
    int rank = 0;
    check("MPI_Comm_rank", rank_(values_.world, &rank));
    return rank;
  }

  int size() override {
    int size = 0;
    check("MPI_Comm_size", size_(values_.world, &size));
    return size;
  }

  void allGather(const void* send, void* receive, int bytes) override {
    const Handle byte = values_.byte;
    check("MPI_Iallgather", allGather_(send, bytes, byte, receive, bytes, byte, values_.world, &request_));
  }

  void allToAll(const void* send, void* receive, int bytes) override {
    const Handle byte = values_.byte;
    check("MPI_Ialltoall", allToAll_(send, bytes, byte, receive, bytes, byte, values_.world, &request_));
  }

  void broadcast(void* data, int bytes, int root) override {
    check("MPI_Ibcast", broadcast_(data, bytes, values_.byte, root, values_.world, &request_));
  }

  bool test() override {
    int done = 0;
    check("MPI_Test", test_(&request_, &done, values_.ignoreStatus));
    return done != 0;
  }

  void abort(int code) override { abort_(values_.world, code); }
  void finalize() override { check("MPI_Finalize", finalize_()); }

 private:
  void check(const char* name, int code) const {
    if (code == 0) return;
    std::vector<char> text(kLongestError + 1);
    int length = 0;
    if (errorString_(code, text.data(), &length) != 0)
      throw Error(std::string(name) + ": error " + std::to_string(code));
    throw Error(std::string(name) + ": " + text.data());
  }

  const Values<Handle> values_;
  Handle request_{};

  int (*initialized_)(int*);
  int (*initThread_)(int*, char***, int, int*);
  int (*setErrorHandler_)(Handle, Handle);
  int (*errorString_)(int, char*, int*);
  int (*rank_)(Handle, int*);
  int (*size_)(Handle, int*);
  int (*allGather_)(const void*, int, Handle, void*, int, Handle, Handle, Handle*);
  int (*allToAll_)(const void*, int, Handle, void*, int, Handle, Handle, Handle*);
  int (*broadcast_)(void*, int, Handle, int, Handle, Handle*);
  int (*test_)(Handle*, int*, void*);
  int (*abort_)(Handle, int);
  int (*finalize_)();
};

void* address(uintptr_t value) { return reinterpret_cast<void*>(value); }

}  // namespace

Description describe(const std::string& path) {
  const File file(path);
  return {versionOf(file), handlesOf(file)};
}

std::unique_ptr<Library> open(const std::string& path) {
  File file(path);
  const std::string handles = handlesOf(file);
  std::unique_ptr<Library> library;
  if (handles == "open-mpi") {
    const Values<void*> values{file.find("ompi_mpi_comm_world"),
                               file.find("ompi_mpi_byte"),
                               file.find("ompi_mpi_errors_return"),
                               nullptr,
                               1,
                               2};
    library = std::make_unique<LibraryOf<void*> >(file, values);
  } else if (handles == "standard") {
    const Values<void*> values{address(0x101), address(0x247), address(0x143), nullptr, 1024, 2048};
    library = std::make_unique<LibraryOf<void*> >(file, values);
  } else {
    const Values<int> values{0x44000000, 0x4c00010d, 0x54000001, address(1), 1, 2};
    library = std::make_unique<LibraryOf<int> >(file, values);
  }
  file.keep(handles == "open-mpi");
  return library;
}

}  // namespace mpi
}  // namespace fpl

#endif
