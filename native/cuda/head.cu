#include "head.h"

#include <algorithm>
#include <cstdlib>

#include "devices.h"

namespace fpl {
namespace cuda {
namespace {

// Bytes of device memory for the logits of a chunk. Each chunk reads and writes the weight's gradient once, so they
// should be large; tests want several chunks of few rows.
int64_t chunkBytes() {
  constexpr int64_t kBytes = int64_t(768) << 20;
  const char* const given = getenv("FUSED_PREFERENCE_LOSS_CHUNK_BYTES");
  return given && *given ? std::max<int64_t>(1, atoll(given)) : kBytes;
}

int64_t roundedUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Elements that rows begin at a multiple of, so that cuBLASLt finds all chunks aligned alike.
constexpr int64_t kRowAlignment = 64;

constexpr float kZero = 0, kOne = 1;

int64_t extentOf(const Rows& rows) { return rows.offset(rows.count() - 1) + rows.vocab; }

bool isActive(int32_t target) { return target != -1; }

}  // namespace

HeadPlan::HeadPlan(const Job& job, Workspace& workspace) : job_(job), workspace_(workspace) {
  if (!workspace.cublasLt) workspace.cublasLt = std::make_unique<CublasLt>();
  count_ = job.policy.logits.count();
  vocab_ = job.policy.logits.vocab;
  stride_ = roundedUp(vocab_, kRowAlignment);
  // How many of the labels on the device are active is not known here: there is room for all rows then.
  active_.count = job.labels.data ? count_ : std::count_if(job.tokens.targets, job.tokens.targets + count_, isActive);
  multiplied_ = active_.count;
  const int64_t rowBytes = stride_ * int64_t(sizeof(float));
  mostRows_ = std::max<int64_t>(1, chunkBytes() / rowBytes);
  if (mostRows_ > Chunks::kTileRows) mostRows_ -= mostRows_ % Chunks::kTileRows;
  chunks_ = Chunks(active_.count, mostRows_, {vocab_, job.policy.head.width(), multiprocessors()});
  chunk_ = chunks_.most();
  // Those of a single chunk have their memory anyway.
  const int64_t budget = job.headGradient.logitsBudget;
  const bool makesBoth = job.hasPolicy && job.hasHeadGradient && !job.policy.segments.present();
  keeps_ = makesBoth && budget > 0 && active_.count <= std::max(mostRows_, budget / rowBytes);

  policy_ = layerOf(job.policy.head);
  if (readsReference()) reference_ = layerOf(job.reference.head);
  hiddenStride_ = roundedUp(std::max(policy_.head.width(), reference_.head.width()), kRowAlignment);
  if (!job.hasHeadGradient) return;
  out_ = job.headGradient;
  const bool adds = out_.accumulate;
  const int64_t width = policy_.head.width();
  if (!out_.onDevice) {
    const bool keeps = out_.addsToHidden() || out_.skipInactive;
    out_.hidden = gradientOnDevice(out_.hidden, count_ * width, out_.hiddenDtype(), keeps, "the gradient of hidden");
    out_.weight = gradientOnDevice(out_.weight, vocab_ * width, out_.dtype, adds, "the gradient of the weight");
    out_.bias = gradientOnDevice(out_.bias, vocab_, out_.dtype, adds, "the gradient of the bias");
  }
  weightSums_ = static_cast<float*>(out_.weight);
  if (!out_.weight || out_.dtype == DType::kFloat32) return;
  memories_.push_back(deviceMemory(size_t(vocab_ * width) * sizeof(float), "the sums of the weight's gradient"));
  weightSums_ = reinterpret_cast<float*>(memories_.back().data());
}

HeadPlan::Layer HeadPlan::layerOf(const Head& from) {
  Layer layer;
  layer.head = from;
  Head& head = layer.head;
  const int64_t width = from.width();
  if (!from.hidden.onDevice) {
    head.hidden.data = onDevice(from.hidden.data, extentOf(from.hidden), from.hidden.dtype, "the hidden states");
  }
  if (!from.weight.onDevice) {
    const int64_t extent = (vocab_ - 1) * from.weight.rowStride + (width - 1) * from.weight.columnStride + 1;
    head.weight.data = onDevice(from.weight.data, extent, from.weight.dtype, "the weight");
    if (from.bias.data) head.bias.data = onDevice(from.bias.data, vocab_, from.bias.dtype, "the bias");
  }
  // Both factors of a product have one type.
  layer.type = from.hidden.dtype == from.weight.dtype ? from.weight.dtype : DType::kFloat32;
  layer.tf32 = layer.type == DType::kFloat32 && job_.products == kProductsOfTf32;
  if ((layer.type == DType::kBFloat16 || layer.tf32) && capabilityOf(job_.device) < 80) {
    throw Error{"output layers of " + std::string(layer.tf32 ? "TF32" : "bfloat16") +
                " need a GPU of compute capability 8.0 or newer, and GPU " + std::to_string(job_.device) +
                " is older; it multiplies float16 and float32"};
  }
  layer.converts = layer.type != from.weight.dtype;
  layer.weight = {head.weight.data, layer.type, vocab_, width, head.weight.rowStride, head.weight.columnStride};
  if (layer.converts) {
    const bool byRows = layer.weight.byRows();
    layer.weight.rowStride = byRows ? width : 1;
    layer.weight.columnStride = byRows ? 1 : vocab_;
  }
  return layer;
}

void* HeadPlan::onDevice(const void* host, int64_t elements, DType dtype, const char* purpose) {
  const size_t bytes = size_t(elements * elementSize(dtype));
  memories_.push_back(deviceMemory(bytes, purpose));
  uploads_.push_back({memories_.back().data(), const_cast<void*>(host), bytes});
  return memories_.back().data();
}

void* HeadPlan::gradientOnDevice(void* host, int64_t elements, DType dtype, bool upload, const char* purpose) {
  if (!host) return nullptr;
  const size_t bytes = size_t(elements * elementSize(dtype));
  memories_.push_back(deviceMemory(bytes, purpose));
  void* device = memories_.back().data();
  if (upload) uploads_.push_back({device, host, bytes});
  downloads_.push_back({device, host, bytes});
  return device;
}

void HeadPlan::place(Layout& layout) {
  active_.rows = layout.scratch<int32_t>(active_.count);
  active_.targets = layout.scratch<int32_t>(active_.count);
  active_.found = layout.scratch<int32_t>(1);
  for (Layer* layer : {&policy_, &reference_}) {
    if (layer->converts) layer->weight.data = layout.scratch<float>(vocab_ * layer->head.width());
    if (layer->head.bias.data) layer->bias = layout.scratch<float>(vocab_);
  }
  hidden_ = layout.scratch<char>(chunk_ * hiddenStride_ * int64_t(sizeof(float)));
  logits_ = layout.scratch<float>((keeps_ ? active_.count : chunk_) * stride_);
  products_ = layout.scratch<char>(CublasLt::kWorkspace);
  if (job_.hasPolicy && !job_.policy.segments.present() && !job_.exchange.present()) {
    sweep_.perRow = areSplit(chunk_) ? RowSegments(vocab_).count : 1;
    sweep_.place(layout, chunk_ * sweep_.perRow, job_.policy.wantsByProducts(), wantsMeanLogit(job_),
                 wantsWeighted(job_));
  }
  if (!job_.hasHeadGradient) return;
  values_ = layout.scratch<RowValues>(active_.count);
  takingPart_ = layout.scratch<int32_t>(active_.count);
  if (out_.hidden) hiddenGradient_ = layout.scratch<float>(chunk_ * hiddenStride_);
  if (out_.hidden && job_.exchange.present()) {
    shareOfHidden_ = layout.scratch<float>(active_.count * policy_.head.width());
  }
  if (out_.bias) biasSums_ = layout.scratch<double>(stripsOf(chunk_) * vocab_);
  if (policy_.type == DType::kFloat16) scale_ = layout.scratch<GradientScale>(1);
  if (takesLabelsApart()) ofLabels_ = layout.scratch<float>(chunk_);
  if (takesLabelsApart() && out_.weight) {
    labelLinks_ = {layout.scratch<int32_t>(vocab_), layout.scratch<int32_t>(chunk_), vocab_};
  }
}

// hidden · weightᵀ + bias
Product HeadPlan::logitsProduct(const Layer& layer, int64_t first, int64_t rows) const {
  const Matrix hidden{hidden_, layer.type, rows, layer.head.width(), hiddenStride_};
  const Matrix logits{logitsOf(first), DType::kFloat32, rows, vocab_, stride_};
  return {hidden, layer.weight.transposed(), logits, layer.bias, layer.tf32};
}

// gradient · weight
Product HeadPlan::hiddenProduct(int64_t first, int64_t rows) const {
  // Rounded to 16 bits, it takes the first half of each row's room.
  const Matrix gradient{logitsOf(first), policy_.type, rows, vocab_, stride_ * 4 / elementSize(policy_.type)};
  const Matrix out{hiddenGradient_, DType::kFloat32, rows, policy_.head.width(), hiddenStride_};
  return {gradient, policy_.weight, out, nullptr, policy_.tf32};
}

// gradientᵀ · hidden
Product HeadPlan::weightProduct(int64_t first, int64_t rows) const {
  const int64_t width = policy_.head.width();
  const Matrix gradient{logitsOf(first), policy_.type, rows, vocab_, stride_ * 4 / elementSize(policy_.type)};
  const Matrix hidden{hidden_, policy_.type, rows, width, hiddenStride_};
  const bool byRows = policy_.head.weight.columnStride == 1;
  const Matrix out{weightSums_, DType::kFloat32, vocab_, width, byRows ? width : 1, byRows ? 1 : vocab_};
  return {gradient.transposed(), hidden, out, nullptr, policy_.tf32};
}

// A product for each chunk. Chosen for the most rows a chunk can have, so that the choice, and with it a row's bits,
// does not depend on how many there are.
template <typename Make>
std::vector<Matmul> HeadPlan::products(bool scalarsOnDevice, const Make& make) const {
  std::vector<Matmul> made;
  forChunks([&](int64_t first, int64_t rows) {
    made.emplace_back(*workspace_.cublasLt, make(first, mostRows_), make(first, rows), scalarsOnDevice);
  });
  return made;
}

const Matmul& HeadPlan::of(const std::vector<Matmul>& products, int64_t first) const {
  return products[size_t(chunks_.beginningWith(first))];
}

void HeadPlan::prepare() {
  const auto ofLogits = [&](Layer& layer) {
    layer.logits = products(false, [&](int64_t first, int64_t rows) { return logitsProduct(layer, first, rows); });
  };
  ofLogits(policy_);
  if (readsReference()) ofLogits(reference_);
  const bool scaled = scale_ != nullptr;
  if (out_.hidden)
    toHidden_ = products(scaled, [&](int64_t first, int64_t rows) { return hiddenProduct(first, rows); });
  if (out_.weight)
    toWeight_ = products(scaled, [&](int64_t first, int64_t rows) { return weightProduct(first, rows); });
}

void HeadPlan::upload(Stream stream) {
  for (const Transfer& t : uploads_) {
    check(cudaMemcpyAsync(t.device, t.host, t.bytes, cudaMemcpyHostToDevice, stream),
          "copying the output layer to the device");
  }
}

void HeadPlan::download(Stream stream) {
  for (const Transfer& t : downloads_) {
    check(cudaMemcpyAsync(t.host, t.device, t.bytes, cudaMemcpyDeviceToHost, stream),
          "copying the output layer's gradients to the host");
  }
}

void HeadPlan::begin(const int32_t* targets, Stream stream) {
  compactRows(targets, count_, active_, stream);
  for (const Layer* layer : {&policy_, &reference_}) {
    if (layer->bias) {
      Rows bias;
      bias.data = layer->head.bias.data;
      bias.dtype = layer->head.bias.dtype;
      bias.batch = bias.time = 1;
      bias.vocab = vocab_;
      copyRows(bias, nullptr, 1, layer->bias, DType::kFloat32, vocab_, stream);
    }
    if (!layer->converts) continue;
    const Head::Weight& from = layer->head.weight;
    const Matrix& to = layer->weight;
    const bool byRows = to.byRows();
    Rows rows;
    rows.data = from.data;
    rows.dtype = from.dtype;
    rows.batch = 1;
    rows.time = byRows ? to.rows : to.columns;
    rows.vocab = byRows ? to.columns : to.rows;
    rows.timeStride = byRows ? from.rowStride : from.columnStride;
    copyRows(rows, nullptr, rows.time, to.data, to.dtype, rows.vocab, stream);
  }
}

void HeadPlan::askForActive(Stream stream) {
  check(cudaMemcpyAsync(&found_, active_.found, sizeof found_, cudaMemcpyDeviceToHost, stream), "counting active rows");
}

void HeadPlan::multiplyActive() {
  multiplied_ = found_;
  prepare();
}

template <typename Visit>
void HeadPlan::forChunks(const Visit& visit) const {
  for (int64_t i = 0; i < chunks_.count() && chunks_.begin(i) < multiplied_; ++i) {
    visit(chunks_.begin(i), std::min(chunks_.begin(i + 1), multiplied_) - chunks_.begin(i));
  }
}

Rows HeadPlan::chunkOfLogits(int64_t first, int64_t rows) const {
  Rows logits;
  logits.data = logitsOf(first);
  logits.batch = 1;
  logits.time = rows;
  logits.vocab = vocab_;
  logits.timeStride = stride_;
  logits.onDevice = true;
  return logits;
}

// The gradient in the place of the logits: of 16 bits, in the first half of each row's room.
Rows HeadPlan::chunkOfGradient(int64_t first, int64_t rows) const {
  Rows gradient = chunkOfLogits(first, rows);
  gradient.dtype = policy_.type;
  gradient.timeStride = stride_ * 4 / elementSize(policy_.type);
  return gradient;
}

LabelParts HeadPlan::labelParts(int64_t first, int64_t rows) const {
  Rows hidden;
  hidden.data = hidden_;
  hidden.dtype = policy_.type;
  hidden.batch = 1;
  hidden.time = rows;
  hidden.vocab = policy_.head.width();
  hidden.timeStride = hiddenStride_;
  return {active_.targets + first, ofLabels_, hidden, policy_.head.weight, labelLinks_};
}

// The chunk's gradient of hidden.
Rows HeadPlan::hiddenRows(int64_t rows) const {
  Rows hidden;
  hidden.data = hiddenGradient_;
  hidden.batch = 1;
  hidden.time = rows;
  hidden.vocab = policy_.head.width();
  hidden.timeStride = hiddenStride_;
  hidden.onDevice = true;
  return hidden;
}

void HeadPlan::gatherHidden(const Layer& layer, const int32_t* from, int64_t rows, Stream stream) {
  copyRows(layer.head.hidden, from, rows, hidden_, layer.type, hiddenStride_, stream);
}

void HeadPlan::multiplyLogits(const Layer& layer, int64_t first, Stream stream) {
  of(layer.logits, first).multiply(&kOne, &kZero, products_, stream);
}

void HeadPlan::makeLogits(const Layer& layer, int64_t first, int64_t rows, Stream stream) {
  gatherHidden(layer, active_.rows + first, rows, stream);
  multiplyLogits(layer, first, stream);
}

void HeadPlan::forward(bool reference, const Forward& stage, const Tokens& tokens, const TokenLossStage* loss,
                       Stream stream) {
  SweepScratch scratch = sweep_.of(stage, wantsMeanLogit(stage, loss));
  if (loss) scratch.classWeights = loss->loss.classWeights;
  Forward part = stage;
  Tokens chunkTokens = tokens;
  forChunks([&](int64_t first, int64_t rows) {
    makeLogits(reference ? reference_ : policy_, first, rows, stream);
    part.logits = chunkOfLogits(first, rows);
    chunkTokens.targets = active_.targets + first;
    sweepRows(part, chunkTokens, scratch, {0, rows}, stream);
    finishRows(part, chunkTokens, loss, scratch, active_.rows + first, stream);
  });
}

void HeadPlan::segments(bool reference, const Forward& stage, const Tokens& columns, const MadeStates& made,
                        const float* classWeights, Stream stream) {
  Forward part = stage;
  Tokens chunkColumns = columns;
  forChunks([&](int64_t first, int64_t rows) {
    makeLogits(reference ? reference_ : policy_, first, rows, stream);
    part.logits = chunkOfLogits(first, rows);
    chunkColumns.targets = active_.targets + first;
    sweepRows(part, chunkColumns, made.from(first, classWeights), {0, rows}, stream);
    labelLogits(part.logits, chunkColumns, made.labelLogits + first, stream);
  });
}

void HeadPlan::gradient(const Gradient& gradient, const RowValues* values, const Tokens& columns,
                        Communicator* communicator, Stream stream) {
  const int64_t width = policy_.head.width();
  const bool adds = out_.accumulate;
  // The sums of a weight's gradient that has another type are not those that it is added to.
  const bool rounds = out_.dtype != DType::kFloat32, addsToSums = adds && !rounds;
  if (out_.hidden && !out_.skipInactive) {
    clearInactive(columns.targets, count_, width, out_.hidden, out_.hiddenDtype(), stream);
  }
  if (out_.weight && !addsToSums && multiplied_ == 0) {
    check(cudaMemsetAsync(weightSums_, 0, size_t(vocab_ * width) * sizeof(float), stream), "running output layer");
  }
  if (out_.bias) {
    const size_t bytes = size_t(stripsOf(chunk_) * vocab_) * sizeof(double);
    check(cudaMemsetAsync(biasSums_, 0, bytes, stream), "running output layer");
  }
  if (active_.count > 0) gatherValues(values, active_, values_, takingPart_, stream);
  if (scale_) gradientScale(values_, active_.count, scale_, stream);
  const float* down = scale_ ? &scale_->down : &kOne;
  const float* zero = scale_ ? &scale_->zero : &kZero;
  const float* one = scale_ ? &scale_->one : &kOne;

  Gradient part = gradient;
  part.skipInactive = false;
  Tokens chunkColumns = columns;
  forChunks([&](int64_t first, int64_t rows) {
    // Zeros for hidden states that take no part: 0 times what they are might be NaN.
    gatherHidden(policy_, takingPart_ + first, rows, stream);
    if (!keeps_) multiplyLogits(policy_, first, stream);
    part.logits = chunkOfLogits(first, rows);
    part.out = chunkOfGradient(first, rows);
    chunkColumns.targets = active_.targets + first;
    if (out_.bias) addColumns(part, values_ + first, chunkColumns, biasSums_, stream);
    if (isNarrow()) {
      const float* const up = scale_ ? &scale_->up : nullptr;
      narrowGradient(part, values_ + first, chunkColumns, up, ofLabels_, stream);
    } else {
      logitsGradient(part, values_ + first, chunkColumns, chunkColumns, {0, rows}, stream);
      if (takesLabelsApart()) takeLabelsApart(part.out, chunkColumns.targets, ofLabels_, stream);
    }
    if (out_.hidden) {
      of(toHidden_, first).multiply(down, zero, products_, stream);
      if (takesLabelsApart()) addLabelsToHidden(labelParts(first, rows), hiddenGradient_, hiddenStride_, stream);
      if (shareOfHidden_) {
        copyRows(hiddenRows(rows), nullptr, rows, shareOfHidden_ + first * width, DType::kFloat32, width, stream);
      } else {
        scatterRows(hiddenGradient_, hiddenStride_, active_.rows + first, rows, width, out_.hidden, out_.hiddenDtype(),
                    out_.addsToHidden(), stream);
      }
    }
    if (out_.weight) {
      of(toWeight_, first).multiply(down, addsToSums || first > 0 ? one : zero, products_, stream);
      const Matrix sums = weightProduct(first, rows).c;
      if (takesLabelsApart()) {
        linkLabels(chunkColumns.targets, rows, labelLinks_, stream);
        addLabelsToWeight(labelParts(first, rows), weightSums_, sums.rowStride, sums.columnStride, stream);
      }
    }
  });
  if (shareOfHidden_ && multiplied_ > 0) {
    communicator->allReduceSum(shareOfHidden_, size_t(multiplied_ * width), nccl::Type::kFloat32, stream,
                               job_.cancelled);
    scatterRows(shareOfHidden_, width, active_.rows, multiplied_, width, out_.hidden, out_.dtype, adds, stream);
  }
  if (out_.weight && rounds) writeRounded(weightSums_, vocab_ * width, out_.weight, out_.dtype, adds, stream);
  if (out_.bias) writeColumns(biasSums_, stripsOf(chunk_), vocab_, out_.bias, out_.dtype, adds, stream);
}

}  // namespace cuda
}  // namespace fpl
