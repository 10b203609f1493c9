/**
 * The cpu backend: hands jobs to the native addon. The order of numbers and arrays here is the order in
 * which native/addon/job_reader.cc takes them.
 */
import type { DType, FDivergence, InstructionSet, LossType } from '../types.js'
import type { Backend, Job, Rows, RunSettings } from './backend.js'
import { type Loaded, loadAddon } from './load-addon.js'

type NativeArray = Float64Array | Float32Array | Int32Array | Uint16Array | undefined

/** What `run` takes for an array: the array, or how many of its elements are in its slot of the arena. */
type Argument = NativeArray | number

/** Changes with what `run` takes: a binary of another build would read the arguments as something else. */
const JOB_VERSION = 2

interface Addon {
  readonly jobVersion: number
  /** The memory whose i-th slot serves `run` for the i-th array. */
  setArena(arena: ArrayBuffer): void
  run(numbers: Float64Array, ...arrays: Argument[]): void
  runAsync(id: number, numbers: Float64Array, ...arrays: NativeArray[]): Promise<boolean>
  cancel(id: number): void
  availableThreads(): number
  /** Seconds of a sweep over the bytes of `buffer`; see native/cpu/bandwidth.h. */
  bandwidth(sweep: string, buffer: ArrayBuffer, target: ArrayBuffer | undefined, threads: number): number
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
  private readonly arena = new Arena()
  /** Read by the addon before it returns, so one array serves all calls. */
  private numbers = new Float64Array(64)
  private lastId = 0

  constructor(
    private readonly addon: Addon,
    defaultSet: InstructionSet,
  ) {
    this.lossCodes = new Map(addon.lossNames.map((name, code) => [name, code]))
    this.defaultSet = addon.instructionSets.indexOf(defaultSet)
    addon.setArena(this.arena.buffer)
  }

  runSync(job: Job, settings: RunSettings): void {
    const arrays = arraysOf(job)
    const inArena = this.arena.fill(arrays)
    this.addon.run(this.numbersOf(job, settings), ...inArena)
    this.arena.empty(arrays, inArena)
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
    if (this.numbers.length < 33 + 3 * terms.length) this.numbers = new Float64Array(33 + 3 * terms.length)
    const { numbers } = this
    let at = 0
    const setRows = (rows: Rows | undefined) => {
      if (rows) {
        numbers[at] = DTYPES[rows.dtype]
        numbers[at + 1] = rows.batch
        numbers[at + 2] = rows.time
        numbers[at + 3] = rows.vocab
        numbers[at + 4] = rows.batchStride
        numbers[at + 5] = rows.timeStride
      }
      at += 6
    }
    numbers[at++] = settings.threads
    numbers[at++] = settings.instructionSet
      ? this.addon.instructionSets.indexOf(settings.instructionSet)
      : this.defaultSet
    numbers[at++] = settings.signal ? 1 : 0
    numbers[at++] = gradient?.skipInactive ? 1 : 0
    numbers[at++] = tokens?.temperature ?? 1
    numbers[at++] = tokens?.average ? 1 : 0
    numbers[at++] = tokens?.emptyLogProb ?? 0
    setRows((policy ?? gradient)?.logits)
    setRows(reference?.logits)
    setRows(gradient?.out)
    if (loss) {
      numbers[at++] = loss.beta
      numbers[at++] = loss.gamma
      numbers[at++] = loss.rewardShift
      numbers[at++] = loss.discopopTau
      numbers[at++] = loss.alpha
      numbers[at++] = DIVERGENCES[loss.fDivergence]
      numbers[at++] = loss.average ? 1 : 0
      numbers[at++] = terms.length
      for (const term of terms) {
        numbers[at++] = this.lossCodes.get(term.lossType) as number
        numbers[at++] = term.weight
        numbers[at++] = term.labelSmoothing
      }
    }
    return numbers
  }
}

/** Bytes V8 keeps in a typed array itself: to point native code at such an array it has to allocate a buffer for it. */
const SLOT = 64

/**
 * A slot of memory for each small array of a call. Copying in and out of it costs far less than the buffers that V8
 * would allocate to give small arrays an address.
 */
class Arena {
  readonly buffer = new ArrayBuffer(SLOT * 32)
  private readonly float64 = new Float64Array(this.buffer)
  private readonly float32 = new Float32Array(this.buffer)
  private readonly int32 = new Int32Array(this.buffer)
  private readonly uint16 = new Uint16Array(this.buffer)

  /** The arguments for these arrays, small ones copied into their slots. */
  fill(arrays: readonly NativeArray[]): Argument[] {
    const inArena: Argument[] = new Array(arrays.length)
    for (let i = 0; i < arrays.length; i++) {
      const array = arrays[i]
      if (array === undefined || array.byteLength > SLOT) {
        inArena[i] = array
        continue
      }
      const view = this.viewFor(array)
      const start = (i * SLOT) / array.BYTES_PER_ELEMENT
      for (let k = 0; k < array.length; k++) view[start + k] = array[k]
      inArena[i] = array.length
    }
    return inArena
  }

  /** Copies the slots of results back. */
  empty(arrays: readonly NativeArray[], inArena: readonly Argument[]): void {
    for (let i = FIRST_RESULT; i < arrays.length; i++) {
      if (typeof inArena[i] !== 'number') continue
      const array = arrays[i] as Exclude<NativeArray, undefined>
      const view = this.viewFor(array)
      const start = (i * SLOT) / array.BYTES_PER_ELEMENT
      for (let k = 0; k < array.length; k++) array[k] = view[start + k]
    }
  }

  private viewFor(array: Exclude<NativeArray, undefined>): Exclude<NativeArray, undefined> {
    if (array instanceof Float64Array) return this.float64
    if (array instanceof Float32Array) return this.float32
    return array instanceof Int32Array ? this.int32 : this.uint16
  }
}

/** A `Float16Array` goes as its bits: older versions of Node-API do not know the type. */
function bits(rows: Rows | undefined): Float32Array | Uint16Array | undefined {
  const data = rows?.data
  if (data === undefined || data instanceof Float32Array || data instanceof Uint16Array) return data
  return new Uint16Array(data.buffer, data.byteOffset, data.length)
}

/** The arrays in the addon's order: those it only reads, then those it writes. */
function arraysOf(job: Job): NativeArray[] {
  const { tokens, policy, reference, loss, gradient } = job
  return [
    tokens?.targets,
    tokens?.weights,
    tokens?.offsets,
    tokens?.counts,
    bits((policy ?? gradient)?.logits),
    bits(reference?.logits),
    loss?.pairs,
    loss?.chosenLengths,
    loss?.rejectedLengths,
    policy?.states ?? gradient?.states,
    policy?.logProbs,
    policy?.logWeights,
    policy?.tokenLogProbs,
    policy?.tokenEntropies,
    policy?.tokenArgmax,
    policy?.logSumExp,
    policy?.sumSquaredProbs,
    reference?.logProbs,
    loss?.chosen,
    loss?.rejected,
    loss?.referenceChosen,
    loss?.referenceRejected,
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

const FIRST_RESULT = 9

let native: Native | undefined

/** The cpu backend, or why there is none. Looks once; never throws. */
export function loadNative(): Native {
  native ??= find()
  return native
}

function find(): Native {
  try {
    const loaded = findAddon()
    if ('reason' in loaded) return { reason: loaded.reason }
    const { addon, path } = loaded
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

/** The addon, and every file that was tried. */
export function findAddon(): Loaded<Addon> {
  return loadAddon<Addon>(({ jobVersion }) =>
    jobVersion === JOB_VERSION ? undefined : 'belongs to another version of this package',
  )
}
