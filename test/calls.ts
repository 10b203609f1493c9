/**
 * The public functions with arguments and results in host memory, wherever they run: on backends of the host their
 * synchronous forms, on WebGPU the promises, with buffers of the GPU for their tensors.
 */
import { afterEach, beforeEach } from 'vitest'
import type * as types from '../lib/index.js'
import type { RunOptions } from '../lib/index.js'
import * as library from '../lib/index.js'
import { LentMemory } from './webgpu/lent-memory.js'

type Call<Arguments extends unknown[], Result> = (...given: Arguments) => Promise<Result>
// biome-ignore lint/suspicious/noExplicitAny: the functions have their types below
type AnyCall = (...given: any[]) => any

// What backward needs stays on the GPU until all tests that run have ended.
const lent: LentMemory[] = []
let running = 0
beforeEach(() => {
  running++
})
afterEach(() => {
  running--
  if (running === 0) for (const memory of lent.splice(0)) memory.free()
})

function everywhere(promise: AnyCall, sync: AnyCall): AnyCall {
  const withBackward = (result: { backward?: AnyCall }, backward: () => AnyCall) =>
    result.backward === undefined ? result : { ...result, backward: backward() }
  return async (...given) => {
    const { backend, gpuDevice } = given.at(-1) as RunOptions
    if (backend !== 'webgpu') {
      const result = sync(...given)
      return withBackward(
        result,
        () =>
          async (...later) =>
            result.backwardSync(...later),
      )
    }
    const memory = new LentMemory(gpuDevice as GPUDevice)
    lent.push(memory)
    const onGpu =
      (call: AnyCall): AnyCall =>
      (...given) =>
        memory.during(call(...given.map((part) => memory.lend(part))))
    const result = await onGpu(promise)(...given)
    if (!result.backward) memory.free()
    return withBackward(result, () => onGpu(result.backward))
  }
}

type Tensors = [logits: types.Logits, labels: types.Labels]
type LinearTensors = [hidden: types.Hidden, weight: types.HeadWeight, labels: types.Labels]

export const crossEntropy: Call<[...Tensors, types.CrossEntropyOptions], types.CrossEntropy> = everywhere(
  library.crossEntropy,
  library.crossEntropySync,
)
export const fusedPreferenceLoss: Call<[...Tensors, types.FusedOptions], types.FusedPreferenceLoss> = everywhere(
  library.fusedPreferenceLoss,
  library.fusedPreferenceLossSync,
)
export const fusedUnpairedPreferenceLoss: Call<
  [...Tensors, types.FusedUnpairedOptions],
  types.FusedUnpairedPreferenceLoss
> = everywhere(library.fusedUnpairedPreferenceLoss, library.fusedUnpairedPreferenceLossSync)
export const sequenceLogProbs: Call<[...Tensors, types.SequenceOptions], types.SequenceLogProbs> = everywhere(
  library.sequenceLogProbs,
  library.sequenceLogProbsSync,
)

export const fusedLinearPreferenceLoss: Call<
  [...LinearTensors, types.FusedLinearOptions],
  types.FusedLinearPreferenceLoss
> = everywhere(library.fusedLinearPreferenceLoss, library.fusedLinearPreferenceLossSync)
export const fusedLinearUnpairedPreferenceLoss: Call<
  [...LinearTensors, types.FusedLinearUnpairedOptions],
  types.FusedLinearUnpairedPreferenceLoss
> = everywhere(library.fusedLinearUnpairedPreferenceLoss, library.fusedLinearUnpairedPreferenceLossSync)
export const linearCrossEntropy: Call<[...LinearTensors, types.LinearCrossEntropyOptions], types.LinearCrossEntropy> =
  everywhere(library.linearCrossEntropy, library.linearCrossEntropySync)
export const linearSequenceLogProbs: Call<
  [...LinearTensors, types.LinearSequenceOptions],
  types.LinearSequenceLogProbs
> = everywhere(library.linearSequenceLogProbs, library.linearSequenceLogProbsSync)
