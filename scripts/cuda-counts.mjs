/**
 * What is held of the CUDA kernels' machine code: cuda-resources.mjs fails where there is more of it, and cuda-predict.mjs
 * predicts times from it.
 */

/** Logits of the row that instructions are counted for. */
export const VOCAB = 128_256

/**
 * The most instructions of a thread for each logit of a row that no option needs more of, in the code for compute
 * capability 9.0. Above some 80 % of the instructions that a GPU issues while its memory moves a logit, they and not the
 * memory would set the time (docs/performance.md).
 * @type {Readonly<Record<string, number>>}
 */
export const MOST_INSTRUCTIONS = {
  'sweepKernel<f32>': 20,
  'sweepKernel<f16>': 6.2,
  'sweepKernel<bf16>': 6.2,
  'gradientKernel<f32>': 16,
  'gradientKernel<f16>': 12.5,
  'gradientKernel<bf16>': 12.5,
  'rowKernel<f32>': 16,
  'rowKernel<f16>': 12.8,
  'rowKernel<bf16>': 12.8,
}
