/**
 * The cpu backend: hands jobs to the native addon.
 */

import { failure } from '../../errors.js'
import type { Backend, Job, Products, RunSettings } from '../../job.js'
import type { InstructionSet } from '../../types/index.js'
import { availableThreads } from '../available-threads.js'
import { untilAborted } from '../signals.js'
import type { Addon, NativeArray } from './addon.js'
import { openBlas } from './blas.js'
import { JobArguments, jobFields, SLOT_BYTES, type Slots } from './job-arguments.js'
import { type Loaded, loadAddon } from './load-addon.js'

/** The facts that the addon has found about this machine. */
export interface NativeInfo {
  instructionSet: InstructionSet
  instructionSets: readonly InstructionSet[]
  threads: number
  path: string
}

/** `isExpected`: nobody expects it here. */
export type Native = { backend: Backend; addon: Addon; info: NativeInfo } | { reason: string; isExpected?: boolean }

/** Environment variable that forces an instruction set, for tests. */
const INSTRUCTION_SET_VARIABLE = 'FUSED_PREFERENCE_LOSS_INSTRUCTION_SET'

/** `kProductsOfAmx` of native/core/job.h. */
const PRODUCTS_OF_AMX = -1

class CpuBackend implements Backend {
  readonly name = 'cpu'
  private readonly arena: Arena
  private readonly jobArguments: JobArguments

  constructor(
    private readonly addon: Addon,
    { instructionSet, threads }: Pick<NativeInfo, 'instructionSet' | 'threads'>,
  ) {
    this.jobArguments = new JobArguments(addon, addon.instructionSets.indexOf(instructionSet), threads)
    this.arena = new Arena(addon.arena)
  }

  openProducts(products: Products): number {
    if (products === 'blas') return openBlas(this.addon.blas)
    const problem = this.addon.amxProblem()
    if (problem !== undefined) throw failure('ERR_BACKEND_UNAVAILABLE', `products: 'amx' cannot be had: ${problem}`)
    return PRODUCTS_OF_AMX
  }

  runSync(job: Job, settings: RunSettings): void {
    this.addon.run(...this.jobArguments.of(job, settings, this.arena))
    this.arena.takeResults()
  }

  async run(job: Job, settings: RunSettings): Promise<void> {
    const id = this.addon.nextId()
    const running = this.addon.runAsync(id, settings.onHiddenRows, ...this.jobArguments.of(job, settings))
    await untilAborted(settings.signal, running, () => this.addon.cancel(id))
  }
}

/**
 * A slot of memory for each small array of a call. Copying in and out of it costs far less than the buffers that V8
 * would allocate to give small arrays an address. The addon owns the memory, so that all its callers write where it
 * reads; between `put` and `takeResults` no other code runs.
 */
class Arena implements Slots {
  private readonly float64: Float64Array
  private readonly float32: Float32Array
  private readonly int32: Int32Array
  private readonly uint16: Uint16Array
  // The arrays that the job at hand writes, and their slots.
  private readonly results: (NativeArray | undefined)[] = []
  private readonly resultSlots: number[] = []
  private resultCount = 0

  constructor(memory: ArrayBuffer) {
    this.float64 = new Float64Array(memory)
    this.float32 = new Float32Array(memory)
    this.int32 = new Int32Array(memory)
    this.uint16 = new Uint16Array(memory)
  }

  // Nine of ten arrays are float64: a loop for that kind alone takes a third of the time of a loop for every kind.
  put(i: number, array: NativeArray, isResult: boolean): boolean {
    if (array instanceof Float64Array) {
      if (array.length > SLOT_BYTES / 8) return false
      const { float64 } = this
      const start = (i * SLOT_BYTES) / 8
      for (let k = 0; k < array.length; k++) float64[start + k] = array[k]
    } else if (array instanceof Int32Array) {
      if (array.length > SLOT_BYTES / 4) return false
      const { int32 } = this
      const start = (i * SLOT_BYTES) / 4
      for (let k = 0; k < array.length; k++) int32[start + k] = array[k]
    } else {
      if (array.byteLength > SLOT_BYTES) return false
      this.viewFor(array).set(array, (i * SLOT_BYTES) / array.BYTES_PER_ELEMENT)
    }
    if (isResult) {
      this.results[this.resultCount] = array
      this.resultSlots[this.resultCount++] = i
    }
    return true
  }

  /** Copies the results out of their slots. */
  takeResults(): void {
    const { results, resultSlots, resultCount } = this
    for (let k = 0; k < resultCount; k++) {
      this.take(resultSlots[k], results[k] as NativeArray)
      results[k] = undefined
    }
    this.resultCount = 0
  }

  private take(i: number, array: NativeArray): void {
    if (array instanceof Float64Array) {
      const { float64 } = this
      const start = (i * SLOT_BYTES) / 8
      for (let k = 0; k < array.length; k++) array[k] = float64[start + k]
      return
    }
    const view = this.viewFor(array)
    const start = (i * SLOT_BYTES) / array.BYTES_PER_ELEMENT
    for (let k = 0; k < array.length; k++) array[k] = view[start + k]
  }

  private viewFor(array: NativeArray): NativeArray {
    if (array instanceof Float64Array) return this.float64
    if (array instanceof Float32Array) return this.float32
    return array instanceof Int32Array ? this.int32 : this.uint16
  }
}

let native: Native | undefined

/** The cpu backend, or the reason why it is missing. Looks once; never throws. */
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
    const info = { instructionSet, instructionSets, threads: availableThreads(), path }
    return { backend: new CpuBackend(addon, info), addon, info }
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) }
  }
}

/** The addon, and every file that was tried. */
export function findAddon(): Loaded<Addon> {
  return loadAddon<Addon>(({ jobFields: theirs }) => {
    const ours = jobFields()
    return theirs === ours ? undefined : `belongs to another version of this package${difference(ours, theirs)}`
  })
}

/** The first field that differs, for a developer who has changed only one side. */
function difference(ours: string, theirs: unknown): string {
  if (typeof theirs !== 'string') return ''
  const [here, there] = [ours.split('\n'), theirs.split('\n')]
  const i = here.findIndex((line, k) => line !== there[k])
  return `, whose jobs have '${there[i]}' in place of '${here[i]}'`
}
