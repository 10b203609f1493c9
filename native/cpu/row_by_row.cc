// Stages 1 and 4 row by row. Where all that stage 4 writes to a row is known once the row has been read, as it is with
// a loss of single tokens and with a deferred scale, the row is written while it lies in the cache: it comes from
// memory once.
#include "logits_rows.h"

namespace fpl {

void rowByRow(const Forward& forward, const Gradient& gradient, const Tokens& tokens, const Sequences& sequences,
              TokenState* states, float* sumSquaredProbs, const CpuContext& context) {
  const std::vector<RowOfSequence> rows = writtenRows(gradient, tokens, sequences);
  const RowSegments segments(forward.logits.vocab);
  if (segments.areShared(int64_t(rows.size()), context)) {
    tokenLogProbs(forward, tokens, sequences, states, sumSquaredProbs, context);
    logitsGradient(gradient, tokens, sequences, context);
    return;
  }
  const LogitConstants constants(tokens);
  const RowReader reader(forward, tokens, states, sumSquaredProbs, constants, context.kernels);
  const RowWriter writer(gradient, tokens, constants, context.kernels);
  forEachRow(int64_t(rows.size()), forward.logits.vocab, context, [&](int64_t i) {
    if (tokens.targets[rows[i].row] >= 0) reader.read(rows[i].row);
    writer.write(rows[i]);
  });
}

}  // namespace fpl
