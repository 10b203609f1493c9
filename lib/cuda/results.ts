/**
 * The results of a prepared call where it leaves them: in device memory.
 */
import { DeviceBuffer } from '../backends/cuda/buffer.js'
import type { Handle } from '../backends/cuda/handle.js'
import { cudaFunctions } from '../backends/cuda/open.js'
import type { Job } from '../job.js'

/**
 * Results in device memory, for kernels, copies and collectives of the caller's. Each run overwrites them. float64 unless
 * said otherwise. S sequences, P pairs, R = B · T positions of the logits (packed: `tokens`), whose last of each sequence has
 * no value under `shift`. Those that a call does not have are absent; those of tokens are there when `outputs` names them.
 */
export interface DeviceResults {
  /** `[1]`, of pairs `[3]`: loss, accuracy, margin. */
  readonly loss?: DeviceBuffer
  /** `[P]`; of single sequences `[S]`; of tokens `[R]`. */
  readonly losses?: DeviceBuffer
  /** `[S]` log-probs of sequences, the policy's. */
  readonly logProbs?: DeviceBuffer
  /** `[S]` those of the reference, where the call computes them. */
  readonly referenceLogProbs?: DeviceBuffer
  /** `[P]` */
  readonly chosenLogProbs?: DeviceBuffer
  /** `[P]` */
  readonly rejectedLogProbs?: DeviceBuffer
  /** `[P]` */
  readonly chosenRewards?: DeviceBuffer
  /** `[P]` */
  readonly rejectedRewards?: DeviceBuffer
  /** `[S]` of single sequences. */
  readonly rewards?: DeviceBuffer
  /** `[S]` d loss / d log-prob of each sequence. Present with a gradient, and of single sequences. */
  readonly coefficients?: DeviceBuffer
  /** `[P]` d loss / d log-prob of the chosen sequences, and of the rejected ones. */
  readonly gradChosen?: DeviceBuffer
  /** `[P]` */
  readonly gradRejected?: DeviceBuffer
  /** `[R]` with `deferredScale`. */
  readonly rowScale?: DeviceBuffer
  /** `[R]` float32. */
  readonly tokenLogProbs?: DeviceBuffer
  /** `[R]` float32. */
  readonly tokenEntropies?: DeviceBuffer
  /** `[R]` int32. */
  readonly tokenArgmax?: DeviceBuffer
  /** `[R]` float32. */
  readonly logSumExp?: DeviceBuffer
  /** `[R]` float32. */
  readonly sumSquaredProbs?: DeviceBuffer
  /** `[R]` float32. */
  readonly tokenMeanLogits?: DeviceBuffer
}

/** The arrays of a job for these results. */
function arraysOf(job: Job): Partial<Record<keyof DeviceResults, ArrayBufferView | undefined>> {
  const { policy, reference, loss, unpairedLoss, tokenLoss, gradient, headGradient } = job
  const { summary, losses } = loss ?? unpairedLoss ?? tokenLoss ?? {}
  return {
    // The means by kind of single sequences come behind the loss.
    loss: loss ? summary : summary?.subarray(0, 1),
    losses,
    logProbs: policy?.logProbs,
    referenceLogProbs: reference?.logProbs,
    chosenLogProbs: loss?.chosen,
    rejectedLogProbs: loss?.rejected,
    chosenRewards: loss?.chosenRewards,
    rejectedRewards: loss?.rejectedRewards,
    rewards: unpairedLoss?.rewards,
    // Those of tokens are coefficients of rows.
    coefficients: unpairedLoss?.gradient ?? (tokenLoss ? undefined : (gradient ?? headGradient)?.coefficients),
    gradChosen: loss?.gradChosen,
    gradRejected: loss?.gradRejected,
    rowScale: gradient?.rowScale,
    tokenLogProbs: policy?.tokenLogProbs,
    tokenEntropies: policy?.tokenEntropies,
    tokenArgmax: policy?.tokenArgmax,
    logSumExp: policy?.logSumExp,
    sumSquaredProbs: policy?.sumSquaredProbs,
    tokenMeanLogits: policy?.tokenMeanLogits,
  }
}

/** Where a job that has been prepared leaves its results: parts of the memory that `call` owns. */
export function resultsOnDevice(call: Handle<object>, job: Job, device: number): DeviceResults {
  const found: Partial<Record<keyof DeviceResults, DeviceBuffer>> = {}
  for (const [name, array] of Object.entries(arraysOf(job))) {
    if (array === undefined) continue
    const address = cudaFunctions().resultAt(call.handle, array)
    if (address === 0) continue
    found[name as keyof DeviceResults] = new DeviceBuffer(array.byteLength, { device }, { of: call, address })
  }
  return found
}
