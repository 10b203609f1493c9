/** The parts of @genai-fi/nanogpt 1.3.0 that the example uses, so that it is checked without the package. */
declare module '@genai-fi/nanogpt' {
  import type { NamedTensorMap, Tensor } from '@tensorflow/tfjs-core'

  export interface Model {
    forward(options: { training: boolean }, inputIds: Tensor): Tensor
    weightStore: { touchVariables(names: string[]): void }
  }
  export const models: { NanoGPTV1: new (config: Record<string, number | boolean>) => Model }
  export const training: {
    AdamWOptimizer: new (
      options: Record<string, number>,
    ) => { applyGradients(gradients: NamedTensorMap): { dispose(): void } }
  }
}
