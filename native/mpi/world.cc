#include "world.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace fpl {
namespace mpi {
namespace {

using std::chrono::microseconds;
using Clock = std::chrono::steady_clock;

// A thread that waits for other ranks lets others run, and sleeps when it has waited for that long: ever longer, up to
// the longest sleep, and never long compared with the time that it has waited.
constexpr microseconds kAwake{1000}, kLongestSleep{200};
constexpr int kSleepShare = 16;

// How long `abort` waits for the thread to come out of MPI.
constexpr std::chrono::seconds kAbortPatience{1};

// The first bytes of an all-reduce are added up while the last ones still have to be sent: what a round holds should
// stay in the cache, but the messages between two ranks should not become tiny.
constexpr int64_t kRoundBytes = 4 << 20, kSmallestChunkBytes = 64 << 10;

const char* nameOf(Kind kind) {
  switch (kind) {
    case Kind::kBarrier:
      return "barrier";
    case Kind::kAllGather:
      return "allGather";
    case Kind::kSumFloat32:
      return "allReduceSum of float32";
    case Kind::kSumFloat64:
      return "allReduceSum of float64";
    case Kind::kClose:
      return "close";
    default:
      return "something unknown";
  }
}

// An error with a code of its own; all others are MPI's.
struct Failure : std::runtime_error {
  Failure(const char* code, const std::string& text) : std::runtime_error(std::string(code) + ": " + text) {}
};

}  // namespace

World& World::ofProcess() {
  // Never destroyed, as its thread may outlive what is.
  static World& world = *new World;
  return world;
}

void World::enqueue(const std::shared_ptr<Operation>& operation) {
  const std::lock_guard<std::mutex> lock(mutex_);
  try {
    if (!hasThread_) std::thread(&World::work, this).detach();
    hasThread_ = true;
    waiting_.push_back(operation);
    wake_.notify_one();
  } catch (const std::exception& error) {
    operation->error = std::string("ERR_MPI: ") + error.what();
    operation->done = true;
    changed_.notify_all();
  }
}

void World::wait(const Operation& operation) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return operation.done; });
}

void World::drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return waiting_.empty() && !isRunning_; });
}

void World::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return !waiting_.empty() && !aborting_; });
    const std::shared_ptr<Operation> operation = std::move(waiting_.front());
    waiting_.pop_front();
    isRunning_ = true;
    lock.unlock();
    try {
      run(*operation);
    } catch (const Failure& error) {
      operation->error = error.what();
    } catch (const std::exception& error) {
      operation->error = std::string("ERR_MPI: ") + error.what();
    }
    lock.lock();
    isRunning_ = false;
    operation->done = true;
    changed_.notify_all();
  }
}

void World::run(Operation& operation) {
  if (operation.kind == Kind::kOpen) return start(operation);
  if (operation.kind == Kind::kClose) return close(operation);
  if (!open_) throw Failure("ERR_DISPOSED", "the communicator is closed");
  agree(operation);
  if (operation.kind == Kind::kAllGather) gather(operation);
  if (operation.kind == Kind::kSumFloat32) sum(static_cast<float*>(operation.data), operation.bytes / 4);
  if (operation.kind == Kind::kSumFloat64) sum(static_cast<double*>(operation.data), operation.bytes / 8);
}

void World::start(const Operation& operation) {
  if (open_) return;
  if (library_) throw Error("MPI was closed, and can be started only once in a process");
  std::unique_ptr<Library> library = mpi::open(operation.path);
  library->init();
  library_ = std::move(library);
  rank_ = library_->rank();
  size_ = library_->size();
  longest_ = operation.longest;
  headers_.resize(size_t(size_));
  open_ = true;
  // What is registered now comes before MPI's own, which was registered earlier.
  std::atexit(&World::atExit);
}

// Waits for the collective that was started. While a rank may not have come yet, it sleeps; once all are there, the
// more often it looks the sooner the bytes have passed.
void World::finish(bool mayBeLong) {
  const Clock::time_point start = Clock::now();
  while (!library_->test()) {
    if (aborting_) park();
    const auto waited = std::chrono::duration_cast<microseconds>(Clock::now() - start);
    if (mayBeLong && waited > kAwake) {
      std::this_thread::sleep_for(std::min(waited / kSleepShare, kLongestSleep));
    } else {
      std::this_thread::yield();
    }
  }
}

// Tells the other ranks what this one is about to do, and waits until all have done so.
void World::exchange(const Operation& operation) {
  const Header mine{operation.kind, 0, operation.bytes};
  library_->allGather(&mine, headers_.data(), sizeof(Header));
  finish(true);
}

// Leaves MPI to the thread that aborts it.
void World::park() {
  std::unique_lock<std::mutex> lock(mutex_);
  isRunning_ = false;
  changed_.notify_all();
  for (;;) wake_.wait(lock);
}

std::string World::described(int rank) const {
  const Header& header = headers_[size_t(rank)];
  const std::string call = nameOf(header.kind);
  return "rank " + std::to_string(rank) + " calls " + call +
         (header.kind == Kind::kBarrier ? "" : ", " + std::to_string(header.bytes) + " bytes");
}

void World::agree(const Operation& operation) {
  exchange(operation);
  int other = -1;
  for (int rank = 0; rank < size_; ++rank) {
    const Header& header = headers_[size_t(rank)];
    if (header.kind == Kind::kClose) {
      throw Failure("ERR_RANK_FAILED", "rank " + std::to_string(rank) +
                                           " has ended, or has closed its communicator, and " + described(rank_));
    }
    if (other < 0 && (header.kind != operation.kind || header.bytes != operation.bytes)) other = rank;
  }
  if (other < 0) return;
  throw Failure("ERR_RANK_FAILED", "all ranks must call the same: " + described(other) + ", and " + described(rank_));
}

void World::gather(const Operation& operation) {
  const int64_t bytes = operation.bytes;
  if (bytes == 0) return;
  if (bytes * size_ <= longest_) {
    library_->allGather(operation.send, operation.data, int(bytes));
    return finish(false);
  }
  char* const received = static_cast<char*>(operation.data);
  memcpy(received + rank_ * bytes, operation.send, size_t(bytes));
  for (int root = 0; root < size_; ++root) {
    for (int64_t at = 0; at < bytes; at += longest_) {
      library_->broadcast(received + root * bytes + at, int(std::min(longest_, bytes - at)), root);
      finish(false);
    }
  }
}

template <class T>
void World::sum(T* data, int64_t count) {
  if (size_ == 1) return;
  const int64_t mostOfChunk = std::max(kRoundBytes / size_, kSmallestChunkBytes) / int64_t(sizeof(T));
  for (int64_t at = 0; at < count;) {
    const int64_t left = count - at;
    const int64_t chunk = std::min(mostOfChunk, (left + size_ - 1) / size_);
    const int64_t whole = chunk * size_, taken = std::min(whole, left);
    const auto room = [](std::vector<double>& scratch, int64_t elements) {
      scratch.resize(std::max(scratch.size(), size_t(elements)));
      return reinterpret_cast<T*>(scratch.data());
    };
    T* round = data + at;
    if (taken < whole) {
      round = room(padded_, whole);
      std::copy_n(data + at, taken, round);
      std::fill(round + taken, round + whole, T(0));
    }
    T* const arrived = room(arrived_, whole);
    T* const sums = room(sums_, chunk);
    const int chunkBytes = int(chunk * int64_t(sizeof(T)));
    library_->allToAll(round, arrived, chunkBytes);
    finish(false);
    for (int64_t i = 0; i < chunk; ++i) {
      double total = double(arrived[i]);
      for (int rank = 1; rank < size_; ++rank) total += double(arrived[rank * chunk + i]);
      sums[i] = T(total);
    }
    library_->allGather(sums, round, chunkBytes);
    finish(false);
    if (taken < whole) std::copy_n(round, taken, data + at);
    at += taken;
  }
}

void World::close(const Operation& operation) {
  if (!open_) return;
  const auto isClosing = [](const Header& header) { return header.kind == Kind::kClose; };
  do {
    exchange(operation);
  } while (!std::all_of(headers_.begin(), headers_.end(), isClosing));
  open_ = false;
  library_->finalize();
}

void World::abort(int code) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!open_) return;
  aborting_ = true;
  changed_.wait_for(lock, kAbortPatience, [&] { return !isRunning_; });
  lock.unlock();
  library_->abort(code);
  // Where MPI returns, the end of this process without MPI_Finalize makes mpirun end the others.
  std::_Exit(code);
}

void World::atExit() {
  World& world = ofProcess();
  if (!world.open_ || world.aborting_) return;
  if (world.exitCode_ != 0 && world.size_ > 1) return world.abort(world.exitCode_);
  const auto operation = std::make_shared<Operation>();
  operation->kind = Kind::kClose;
  world.enqueue(operation);
  world.wait(*operation);
}

}  // namespace mpi
}  // namespace fpl
