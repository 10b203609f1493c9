// The part of a plan that makes logits of hidden states and the output layer's weight, and turns their gradient into
// those of the layer: the rows that predict something, a chunk at a time, so that no more than a chunk of logits
// exists, or as many as may be kept.
#pragma once

#include <vector>

#include "chunks.h"
#include "communicator.h"
#include "layout.h"
#include "matmul.h"
#include "plan.h"

namespace fpl {
namespace cuda {

class HeadPlan {
 public:
  // Throws where cuBLASLt cannot be opened. `job` is the host's.
  HeadPlan(const Job& job, Workspace& workspace);

  void place(Layout& layout);
  // Chooses how to multiply; once everything has its place.
  void prepare();

  // Copies the host's tensors over, whole: they have to fit.
  void upload(Stream stream);
  // Finds the active rows.
  void begin(const int32_t* targets, Stream stream);
  // Asks the device how many there are; once it has answered, those behind them need not be multiplied. Their products
  // would be zeros and add nothing, so that the bits are the same.
  void askForActive(Stream stream);
  void multiplyActive();
  // Stage 1 of the policy, which comes last, or of the reference; `loss` is null where no single tokens have one.
  void forward(bool reference, const Forward& stage, const Tokens& tokens, const TokenLossStage* loss, Stream stream);
  // Stage 1 as far as the states of segments.
  void segments(bool reference, const Forward& stage, const Tokens& columns, const MadeStates& made,
                const float* classWeights, Stream stream);
  // Stage 4. Where there is a communicator, hidden's gradient is the sum over its ranks.
  void gradient(const Gradient& gradient, const RowValues* values, const Tokens& columns, Communicator* communicator,
                Stream stream);
  // Copies the gradients back that are the host's.
  void download(Stream stream);

 private:
  // An output layer on the device.
  struct Layer {
    Head head;
    DType type = DType::kFloat32;  // of both factors of its products
    Matrix weight;                 // [V, D] of that type
    bool converts = false;         // the weight is a copy in that type
    bool tf32 = false;             // the products take float32 factors as TF32
    float* bias = nullptr;         // [V] a copy; or null
    std::vector<Matmul> logits;
  };
  struct Transfer {
    void *device, *host;
    size_t bytes;
  };

  Layer layerOf(const Head& head);
  void* onDevice(const void* host, int64_t elements, DType dtype, const char* purpose);
  void* gradientOnDevice(void* host, int64_t elements, DType dtype, bool upload, const char* purpose);

  bool isNarrow() const { return policy_.type != DType::kFloat32; }
  // Whether products would round the gradient of the label, which is by far the largest where a token is well
  // predicted.
  bool takesLabelsApart() const { return isNarrow() || policy_.tf32; }

  // Where the logits of rows from `first` on are, of the active ones: all have places of their own, or those of a
  // chunk.
  float* logitsOf(int64_t first) const { return logits_ + (keeps_ ? first * stride_ : 0); }

  Product logitsProduct(const Layer& layer, int64_t first, int64_t rows) const;
  Product hiddenProduct(int64_t first, int64_t rows) const;
  Product weightProduct(int64_t first, int64_t rows) const;
  template <typename Make>
  std::vector<Matmul> products(bool scalarsOnDevice, const Make& make) const;
  const Matmul& of(const std::vector<Matmul>& products, int64_t first) const;
  // Whether the reference's logits are made.
  bool readsReference() const { return job_.hasReference && !areGiven(job_.reference.segments); }
  template <typename Visit>
  void forChunks(const Visit& visit) const;

  Rows chunkOfLogits(int64_t first, int64_t rows) const;
  Rows chunkOfGradient(int64_t first, int64_t rows) const;
  LabelParts labelParts(int64_t first, int64_t rows) const;
  Rows hiddenRows(int64_t rows) const;
  void gatherHidden(const Layer& layer, const int32_t* from, int64_t rows, Stream stream);
  void multiplyLogits(const Layer& layer, int64_t first, Stream stream);
  void makeLogits(const Layer& layer, int64_t first, int64_t rows, Stream stream);

  const Job& job_;
  Workspace& workspace_;
  int64_t count_, vocab_;  // rows of all logits, and their length
  int64_t multiplied_;     // the first active rows, whose logits are made
  int32_t found_ = 0;      // active rows, as the device has told
  Chunks chunks_;
  int64_t mostRows_, chunk_;  // rows of a chunk: the most there may be, and those of the longest
  bool keeps_;                // the logits of all active rows, from the forward of the policy to the gradient
  int64_t stride_;            // of the logits
  int64_t hiddenStride_;      // of the hidden states, and their gradient
  Layer policy_, reference_;
  HeadGradient out_;  // where the gradients go on the device
  std::vector<DeviceMemory> memories_;
  std::vector<Transfer> uploads_, downloads_;

  ActiveRows active_;
  SweepScratch sweep_;
  float *logits_ = nullptr, *hiddenGradient_ = nullptr;
  float* shareOfHidden_ = nullptr;  // [active rows, D] what is summed over ranks; or null
  float* weightSums_ = nullptr;     // the weight's gradient in float32, which may be a destination
  char *hidden_ = nullptr, *products_ = nullptr;
  RowValues* values_ = nullptr;    // of the active rows
  int32_t* takingPart_ = nullptr;  // [active rows] those with a gradient other than 0, else -1
  double* biasSums_ = nullptr;     // [strips of a chunk, V]
  GradientScale* scale_ = nullptr;
  float* ofLabels_ = nullptr;  // [chunk] the labels' part of the logits' gradient, where they are taken apart
  LabelLinks labelLinks_;      // of the chunk's rows, for the weight's gradient
  std::vector<Matmul> toHidden_, toWeight_;
};

}  // namespace cuda
}  // namespace fpl
