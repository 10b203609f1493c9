#include "communicator.h"

#include <chrono>
#include <thread>
#include <utility>

namespace fpl {
namespace cuda {

using nccl::require;
using nccl::Result;

namespace {

// A number without the zeros at its end.
std::string written(double number) {
  std::string text = std::to_string(number);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace

Communicator::Communicator(int32_t device, int32_t rank, int32_t size, const nccl::UniqueId& id, double seconds,
                           const std::atomic<bool>& cancelled)
    : device(device), functions_(nccl::opened()), seconds_(seconds) {
  nccl::Config config;
  Result result = functions_.initRank(&comm_, size, id, rank, &config);
  try {
    // A rank may have died since it was last heard of, and NCCL would wait for it for ever.
    until([&] { return isSettled(result); }, "come to NCCL", cancelled);
    require(result, "connecting the ranks");
  } catch (const Error& error) {
    abortBecause(error.message);
    throw;
  }
}

Communicator::~Communicator() { abort(); }

void Communicator::allGather(const void* send, void* receive, size_t bytes, Stream stream,
                             const std::atomic<bool>& cancelled) {
  enqueue("gathering", cancelled,
          [&] { return functions_.allGather(send, receive, bytes, nccl::Type::kUint8, comm_, stream); });
}

void Communicator::allReduceSum(void* data, size_t count, nccl::Type type, Stream stream,
                                const std::atomic<bool>& cancelled) {
  enqueue("summing", cancelled,
          [&] { return functions_.allReduce(data, data, count, type, nccl::Operation::kSum, comm_, stream); });
}

void Communicator::broadcast(void* data, size_t bytes, int32_t root, Stream stream,
                             const std::atomic<bool>& cancelled) {
  enqueue("broadcasting", cancelled,
          [&] { return functions_.broadcast(data, data, bytes, nccl::Type::kUint8, root, comm_, stream); });
}

bool Communicator::isDone(Stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  requireComm();
  const cudaError_t status = cudaStreamQuery(stream);
  if (status == cudaSuccess) return true;  // whatever has become of the others since
  ignore(status);
  if (status != cudaErrorNotReady) check(status, "waiting for a stream");
  requireSound();
  return false;
}

void Communicator::wait(Stream stream, const std::atomic<bool>& cancelled) {
  until([&] { return isDone(stream); }, "taken part", cancelled);
}

void Communicator::requireUsable() {
  const std::lock_guard<std::mutex> lock(mutex_);
  requireSound();
}

void Communicator::abort(const std::string& reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  abortBecause(reason);
}

void Communicator::close() {
  const std::unique_lock<std::mutex> turn(operations_, std::try_to_lock);
  const std::lock_guard<std::mutex> lock(mutex_);
  const char* const reason = "it has been closed";
  // Of a communicator with an operation in progress NCCL allows nothing else.
  if (!turn) return abortBecause(reason);
  if (nccl::Comm* comm = std::exchange(comm_, nullptr)) {
    failure_ = reason;
    const Result result = functions_.destroy(comm);
    if (result != Result::kInProgress) require(result, "closing");
  }
}

template <typename Operation>
void Communicator::enqueue(const char* doing, const std::atomic<bool>& cancelled, const Operation& operation) {
  const std::lock_guard<std::mutex> turn(operations_);
  try {
    Result result = Result::kInProgress;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      requireSound();
      result = operation();
    }
    // The first one connects the ranks further.
    until([&] { return isSettled(result); }, "taken part", cancelled);
    require(result, doing);
  } catch (const Error& error) {
    abort(error.message);  // others would wait for it
    throw;
  }
}

template <typename IsDone>
void Communicator::until(const IsDone& isDone, const char* missing, const std::atomic<bool>& cancelled) {
  using Clock = std::chrono::steady_clock;
  const auto giveUp = [&](const std::string& reason) {
    abort(reason);
    throw nccl::Failure{reason};
  };
  for (const Clock::time_point begin = Clock::now(); !isDone();) {
    if (cancelled) giveUp("the call has been given up");
    if (Clock::now() - begin >= std::chrono::duration<double>(seconds_)) {
      giveUp(std::string("not all ranks have ") + missing + " within " + written(seconds_) +
             " seconds: one may have failed");
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

bool Communicator::isSettled(Result& result) {
  if (result == Result::kInProgress) {
    const std::lock_guard<std::mutex> lock(mutex_);
    requireComm();
    require(functions_.asyncError(comm_, &result), "looking for errors");
  }
  return result != Result::kInProgress;
}

void Communicator::requireComm() const {
  if (!comm_) throw nccl::Failure{"this NCCL communicator cannot be used any more: " + failure_};
}

void Communicator::requireSound() {
  requireComm();
  Result found = Result::kSuccess;
  require(functions_.asyncError(comm_, &found), "looking for errors");
  if (found == Result::kSuccess || found == Result::kInProgress) return;
  abortBecause(functions_.errorString(found));
  requireComm();
}

void Communicator::abortBecause(const std::string& reason) {
  nccl::Comm* comm = std::exchange(comm_, nullptr);
  if (!comm) return;
  failure_ = reason;
  functions_.abort(comm);
}

}  // namespace cuda
}  // namespace fpl
