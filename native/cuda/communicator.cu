#include "communicator.h"

#include <thread>
#include <utility>

namespace fpl {
namespace cuda {

using nccl::require;
using nccl::Result;

Communicator::Communicator(int32_t device, int32_t rank, int32_t size, const nccl::UniqueId& id, double seconds)
    : device(device), functions_(nccl::opened()), seconds_(seconds) {
  const Clock::time_point begin = Clock::now();
  nccl::Config config;
  const Result made = functions_.initRank(&comm_, size, id, rank, &config);
  // A rank may have died since it was last heard of, and NCCL would wait for it for ever.
  const Result result = settled(made, [&] { return !isOver(begin); });
  if (result == Result::kSuccess) return;
  try {
    if (result != Result::kInProgress) require(result, "connecting the ranks");
    throw Error{"not all ranks have come to NCCL within " + limit() + " seconds: one may have died"};
  } catch (const Error& error) {
    abortBecause(error.message);
    throw;
  }
}

Communicator::~Communicator() { abort(); }

void Communicator::allGather(const void* send, void* receive, size_t bytes, Stream stream) {
  enqueue("gathering", [&] { return functions_.allGather(send, receive, bytes, nccl::Type::kUint8, comm_, stream); });
}

void Communicator::allReduceSum(void* data, size_t count, nccl::Type type, Stream stream) {
  enqueue("summing",
          [&] { return functions_.allReduce(data, data, count, type, nccl::Operation::kSum, comm_, stream); });
}

void Communicator::broadcast(void* data, size_t bytes, int32_t root, Stream stream) {
  enqueue("broadcasting",
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
  for (const Clock::time_point begin = Clock::now(); !isDone(stream);) {
    if (cancelled) abort();
    if (isOver(begin)) abort("not all ranks have taken part within " + limit() + " seconds: one may have failed");
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void Communicator::requireUsable() {
  const std::lock_guard<std::mutex> lock(mutex_);
  requireSound();
}

void Communicator::abort(const std::string& reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  abortBecause(reason);
}

bool Communicator::isOver(Clock::time_point begin) const {
  return Clock::now() - begin >= std::chrono::duration<double>(seconds_);
}

std::string Communicator::limit() const {
  std::string limit = std::to_string(seconds_);
  limit.erase(limit.find_last_not_of('0') + 1);
  if (limit.back() == '.') limit.pop_back();
  return limit;
}

void Communicator::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (nccl::Comm* comm = std::exchange(comm_, nullptr)) {
    const Result result = functions_.destroy(comm);
    if (result != Result::kInProgress) require(result, "closing");
  }
}

template <typename Operation>
void Communicator::enqueue(const char* doing, const Operation& operation) {
  const std::lock_guard<std::mutex> lock(mutex_);
  requireSound();
  // The first one connects the ranks further.
  const Clock::time_point begin = Clock::now();
  const Result result = settled(operation(), [&] { return !isOver(begin); });
  if (result == Result::kInProgress) {
    abortBecause("not all ranks have taken part within " + limit() + " seconds: one may have failed");
    requireComm();
  }
  require(result, doing);
}

template <typename Wanted>
Result Communicator::settled(Result result, const Wanted& wanted) {
  while (result == Result::kInProgress && wanted()) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    require(functions_.asyncError(comm_, &result), "looking for errors");
  }
  return result;
}

void Communicator::requireComm() const {
  if (!comm_) throw Error{"this NCCL communicator cannot be used any more: " + failure_};
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
