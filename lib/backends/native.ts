/**
 * The cpu backend: finds the native addon and hands it jobs. The order of numbers and arrays here is the order in
 * which native/addon/job_reader.cc takes them.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import type { DType, FDivergence, InstructionSet, LossType } from '../types.js'
import type { Backend, Job, LossTerm, Rows, RunSettings } from './backend.js'

type NativeArray = Float64Array | Float32Array | Int32Array | Uint16Array | undefined

interface Addon {
  run(numbers: Float64Array, ...arrays: NativeArray[]): void
  runAsync(id: number, numbers: Float64Array, ...arrays: NativeArray[]): Promise<boolean>
  cancel(id: number): void
  availableThreads(): number
  readonly lossNames: readonly LossType[]
  readonly instructionSets: readonly InstructionSet[]
}

/** What the addon found on this machine. */
export interface NativeInfo {
  instructionSet: InstructionSet
  instructionSets: readonly InstructionSet[]
  threads: number
  path: string
}

export type Native = { backend: Backend; info: NativeInfo } | { reason: string }

/** Environment variable that forces an instruction set, for tests. */
const INSTRUCTION_SET_VARIABLE = 'FUSED_PREFERENCE_LOSS_INSTRUCTION_SET'

const DTYPES: Record<DType, number> = { float32: 0, float16: 1, bfloat16: 2 }
const DIVERGENCES: Record<FDivergence, number> = { reverse_kl: 0, forward_kl: 1, js: 2, alpha: 3 }

class CpuBackend implements Backend {
  readonly name = 'cpu'
  private readonly lossCodes: ReadonlyMap<string, number>
  private readonly defaultSet: number
  private lastId = 0

  constructor(
    private readonly addon: Addon,
    defaultSet: InstructionSet,
  ) {
    this.lossCodes = new Map(addon.lossNames.map((name, code) => [name, code]))
    this.defaultSet = addon.instructionSets.indexOf(defaultSet)
  }

  runSync(job: Job, settings: RunSettings): void {
    this.addon.run(this.numbersOf(job, settings), ...arraysOf(job))
  }

  async run(job: Job, settings: RunSettings): Promise<void> {
    const { signal } = settings
    signal?.throwIfAborted()
    const id = ++this.lastId
    const cancel = () => this.addon.cancel(id)
    signal?.addEventListener('abort', cancel, { once: true })
    try {
      const finished = await this.addon.runAsync(id, this.numbersOf(job, settings), ...arraysOf(job))
      if (!finished) throw signal?.reason
    } finally {
      signal?.removeEventListener('abort', cancel)
    }
  }

  private numbersOf(job: Job, settings: RunSettings): Float64Array {
    const { tokens, policy, reference, loss, gradient } = job
    const terms = loss?.terms ?? []
    const numbers = new Float64Array(31 + 3 * terms.length)
    numbers[0] = settings.threads
    numbers[1] = settings.instructionSet ? this.addon.instructionSets.indexOf(settings.instructionSet) : this.defaultSet
    if (tokens) {
      numbers[2] = tokens.temperature
      numbers[3] = tokens.average ? 1 : 0
      numbers[4] = tokens.emptyLogProb
    }
    setRows(numbers, 5, (policy ?? gradient)?.logits)
    setRows(numbers, 11, reference?.logits)
    setRows(numbers, 17, gradient?.out)
    if (loss) {
      numbers[23] = loss.beta
      numbers[24] = loss.gamma
      numbers[25] = loss.rewardShift
      numbers[26] = loss.discopopTau
      numbers[27] = loss.alpha
      numbers[28] = DIVERGENCES[loss.fDivergence]
      numbers[29] = loss.average ? 1 : 0
      numbers[30] = terms.length
      for (let i = 0; i < terms.length; i++) {
        const term = terms[i] as LossTerm
        numbers[31 + 3 * i] = this.lossCodes.get(term.lossType) as number
        numbers[32 + 3 * i] = term.weight
        numbers[33 + 3 * i] = term.labelSmoothing
      }
    }
    return numbers
  }
}

function setRows(numbers: Float64Array, at: number, rows: Rows | undefined): void {
  if (!rows) return
  numbers[at] = DTYPES[rows.dtype]
  numbers[at + 1] = rows.batch
  numbers[at + 2] = rows.time
  numbers[at + 3] = rows.vocab
  numbers[at + 4] = rows.batchStride
  numbers[at + 5] = rows.timeStride
}

/** A `Float16Array` goes as its bits: older versions of Node-API do not know the type. */
function bits(rows: Rows | undefined): Float32Array | Uint16Array | undefined {
  const data = rows?.data
  if (data === undefined || data instanceof Float32Array || data instanceof Uint16Array) return data
  return new Uint16Array(data.buffer, data.byteOffset, data.length)
}

function arraysOf(job: Job): NativeArray[] {
  const { tokens, policy, reference, loss, gradient } = job
  return [
    tokens?.targets,
    tokens?.weights,
    tokens?.offsets,
    tokens?.counts,
    bits((policy ?? gradient)?.logits),
    policy?.states ?? gradient?.states,
    policy?.logProbs,
    policy?.logWeights,
    policy?.tokenLogProbs,
    policy?.tokenEntropies,
    policy?.tokenArgmax,
    policy?.logSumExp,
    policy?.sumSquaredProbs,
    bits(reference?.logits),
    reference?.logProbs,
    loss?.pairs,
    loss?.chosen,
    loss?.rejected,
    loss?.referenceChosen,
    loss?.referenceRejected,
    loss?.chosenLengths,
    loss?.rejectedLengths,
    loss?.pairWeights,
    loss?.losses,
    loss?.chosenRewards,
    loss?.rejectedRewards,
    loss?.gradChosen,
    loss?.gradRejected,
    loss?.summary,
    bits(gradient?.out),
    gradient?.coefficients,
  ]
}

let native: Native | undefined

/** The cpu backend, or why there is none. Looks once; never throws. */
export function loadNative(): Native {
  native ??= find()
  return native
}

function find(): Native {
  try {
    const load = createRequire(import.meta.url)
    const nodeGypBuild = load('node-gyp-build') as { path(directory: string): string }
    const path = nodeGypBuild.path(fileURLToPath(new URL('../..', import.meta.url)))
    const addon = load(path) as Addon
    const { instructionSets } = addon
    const forced = process.env[INSTRUCTION_SET_VARIABLE] as InstructionSet | undefined
    if (forced && !instructionSets.includes(forced)) {
      return { reason: `${INSTRUCTION_SET_VARIABLE}=${forced}, but this CPU has ${instructionSets.join(', ')}` }
    }
    const instructionSet = forced || (instructionSets[0] as InstructionSet)
    const info = { instructionSet, instructionSets, threads: addon.availableThreads(), path }
    return { backend: new CpuBackend(addon, instructionSet), info }
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) }
  }
}
