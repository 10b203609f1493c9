/**
 * Puts a job into the memory of the module, and takes the results out of it.
 *
 * Rows of logits and hidden states are packed there, without what lies between them; inactive ones are not copied. The
 * gradient with respect to logits is written over them, where it is of their type.
 */
import type { GradientStage, Job, Rows, RunSettings, Tokens } from '../../job.js'
import type { HostArray } from '../../types/index.js'
import { MOST_FIELDS } from '../field-list.js'
import type { Elements, FieldVisitor, Part } from '../field-visitor.js'
import { visitFields } from '../job-fields.js'
import type { Engine } from './engine.js'
import type { Copies, Task } from './runner.js'

/** The module's vectors begin at multiples of this. */
const LINE = 64
const lines = (bytes: number) => Math.ceil(bytes / LINE) * LINE

/** The fields come first, two numbers each; then what the module notes of the job; then the arrays. */
const FIELD_BYTES = lines(16 * MOST_FIELDS)

/** Whether threads can share it. */
export function isSharedMemory(buffer: ArrayBufferLike): boolean {
  return Object.prototype.toString.call(buffer) === '[object SharedArrayBuffer]'
}

type NumberArray = Float64Array | Float32Array | Int32Array | Uint16Array

/** A part of the module's memory in which one job at a time has its fields and arrays. */
export class JobMemory implements FieldVisitor {
  private address = 0
  private capacity = 0
  // State of the current job.
  private used = 0
  private field = 0
  private job: Job = {}
  private logits = 0
  private time = 0
  private vocab = 0
  private readonly results: (() => void)[] = []
  // What whoever runs the job copies: rows that lie in memory which threads share.
  private readonly before: Copies[] = []
  private readonly after: Copies[] = []

  private readonly arrays: number

  constructor(private readonly engine: Engine) {
    this.arrays = FIELD_BYTES + lines(engine.jobBytes)
  }

  /** Puts a job there; nothing of it is written before `take`. */
  put(job: Job, settings: RunSettings): void {
    this.job = job
    do {
      if (this.used > this.capacity) this.grow()
      this.forget()
      this.used = this.arrays
      const { views, lossNames, unpairedLossNames } = this.engine
      if (this.capacity > 0) views.float64.fill(0, this.address / 8, (this.address + FIELD_BYTES) / 8)
      visitFields(this, job, settings, {
        lossOf: (lossType) => lossNames.indexOf(lossType),
        unpairedLossOf: (lossType) => unpairedLossNames.indexOf(lossType),
        instructionSetOf: () => 0,
        threadsOf: ({ threads }) => threads,
      })
      // Where the memory was too small, all that is known now is how much it takes.
    } while (this.used > this.capacity)
  }

  /** The job for a worker, who copies rows that lie in shared memory. */
  get task(): Task {
    return { addresses: this.addresses, before: this.before, after: this.after }
  }

  /** Whether it is for whoever runs the job to copy rows. */
  get copiesRows(): boolean {
    return this.before.length > 0
  }

  /** Runs the job on this thread; false when it was cancelled. */
  run(): boolean {
    const { engine } = this
    for (const { buffer, stretches } of this.before) {
      for (let i = 0; i < stretches.length; i += 3) {
        const [from, to, count] = stretches.slice(i, i + 3)
        engine.views.uint8.set(new Uint8Array(buffer, from, count), to)
      }
    }
    const finished = engine.run(...this.addresses)
    for (const { buffer, stretches } of finished ? this.after : []) {
      for (let i = 0; i < stretches.length; i += 3) {
        const [to, from, count] = stretches.slice(i, i + 3)
        new Uint8Array(buffer, to).set(engine.views.uint8.subarray(from, from + count))
      }
    }
    return finished
  }

  private get addresses(): [values: number, job: number] {
    return [this.address, this.address + FIELD_BYTES]
  }

  /** Cancels the job, if it runs already. */
  cancelJob(): void {
    const { views, cancelledAt } = this.engine
    Atomics.store(views.uint8, this.address + FIELD_BYTES + cancelledAt, 1)
  }

  /** Copies the results to the arrays of the job. */
  take(): void {
    for (const result of this.results) result()
    this.drop()
  }

  /** Forgets the job and its arrays. */
  drop(): void {
    this.forget()
    this.job = {}
  }

  private forget(): void {
    this.results.length = this.before.length = this.after.length = 0
  }

  release(): void {
    if (this.capacity > 0) this.engine.release(this.address)
    this.capacity = 0
  }

  part({ begin }: Part): void {
    this.field = begin
  }

  number(name: string, value: number): void {
    let put = value
    if (name === 'time') this.time = value
    else if (name === 'vocab') this.vocab = value
    else if (name === 'batchStride') put = this.time * this.vocab
    else if (name === 'timeStride') put = this.vocab
    this.value(put)
  }

  in<E extends keyof Elements>(name: string, _elements: E, array: Elements[E] | undefined): void {
    const data = array as HostArray | undefined
    if (data === undefined || data.length === 0) this.value(0)
    else if (name === 'policy.logits.data') this.logits = this.rows((this.job.policy ?? this.job.gradient)!.logits)
    else if (name === 'reference.logits.data') this.rows(this.job.reference!.logits)
    else if (name === 'policy.head.hidden.data') this.rows((this.job.policy ?? this.job.headGradient)!.head!.hidden)
    else if (name === 'reference.head.hidden.data') this.rows(this.job.reference!.head!.hidden)
    else this.array(data as NumberArray, true)
  }

  out<E extends keyof Elements>(name: string, _elements: E, array: Elements[E] | undefined): void {
    const data = array as HostArray | undefined
    if (data === undefined || data.length === 0) this.value(0)
    else if (name === 'gradient.out.data') this.gradient(this.job.gradient!)
    else this.result(name, data as NumberArray)
  }

  private result(name: string, array: NumberArray): void {
    const { headGradient } = this.job
    // An array that is overwritten as a whole need not be copied first.
    const isKept = headGradient?.accumulate || (name === 'headGradient.hidden' && headGradient?.skipInactive)
    const address = this.array(array, !name.startsWith('headGradient.') || isKept === true)
    this.results.push(() => {
      const view = this.viewFor(array)
      const start = address / array.BYTES_PER_ELEMENT
      array.set(view.subarray(start, start + array.length))
    })
  }

  private array(array: NumberArray, copied: boolean): number {
    const address = this.place(array.byteLength, array.length)
    if (copied && this.fits()) this.viewFor(array).set(array, address / array.BYTES_PER_ELEMENT)
    return address
  }

  private rows(rows: Rows): number {
    const { data, vocab } = rows as Rows & { data: NumberArray }
    const address = this.place(rows.batch * rows.time * vocab * data.BYTES_PER_ELEMENT, 0)
    if (this.fits()) {
      if (this.isShared(data)) {
        this.before.push(copiesOf(rows, this.job.tokens as Tokens, true, address))
        return address
      }
      const view = this.viewFor(data)
      const start = address / data.BYTES_PER_ELEMENT
      forEachRun(rows, this.job.tokens as Tokens, true, (first, begin, count) => {
        view.set(data.subarray(begin, begin + count), start + first * vocab)
      })
    }
    return address
  }

  private gradient({ logits, out, skipInactive }: GradientStage): void {
    const { data, vocab } = out as Rows & { data: NumberArray }
    const tokens = this.job.tokens as Tokens
    let address = this.logits
    if (out.dtype === logits.dtype) this.addressed(address, 0)
    else address = this.place(out.batch * out.time * vocab * data.BYTES_PER_ELEMENT, 0)
    if (this.isShared(data)) {
      this.after.push(copiesOf(out, tokens, skipInactive === true, address))
      return
    }
    this.results.push(() => {
      const view = this.viewFor(data)
      const start = address / data.BYTES_PER_ELEMENT
      forEachRun(out, tokens, skipInactive === true, (first, begin, count) => {
        data.set(view.subarray(start + first * vocab, start + first * vocab + count), begin)
      })
    })
  }

  private place(bytes: number, length: number): number {
    const address = this.address + this.used
    this.used += lines(bytes)
    this.addressed(address, length)
    return address
  }

  private addressed(address: number, length: number): void {
    if (this.capacity > 0) this.engine.views.float64[this.valueAt() + 1] = length
    this.value(address)
  }

  private value(value: number): void {
    if (this.capacity > 0) this.engine.views.float64[this.valueAt()] = value
    this.field++
  }

  private valueAt(): number {
    return this.address / 8 + 2 * this.field
  }

  private fits(): boolean {
    return this.used <= this.capacity
  }

  /** With something to spare, so that the jobs of a series fit once the first has. */
  private grow(): void {
    const wanted = lines(this.used + this.used / 8)
    this.release()
    this.address = this.engine.allocate(wanted)
    this.capacity = wanted
  }

  /** Whether it lies in memory that workers can reach. */
  private isShared({ buffer }: NumberArray): boolean {
    return this.engine.shared && isSharedMemory(buffer)
  }

  private viewFor(array: NumberArray): NumberArray {
    const { float64, float32, int32, uint16 } = this.engine.views
    if (array instanceof Float32Array) return float32
    if (array instanceof Float64Array) return float64
    return array instanceof Int32Array ? int32 : uint16
  }
}

/**
 * Calls `work` for runs of rows that lie one after the other without a gap: with the first row, the element at which it
 * begins, and the number of elements. Only active rows, if that is asked for.
 */
function forEachRun(
  { batch, time, vocab, batchStride, timeStride }: Rows,
  { targets }: Tokens,
  active: boolean,
  work: (first: number, begin: number, count: number) => void,
): void {
  const rows = batch * time
  const isWanted = (row: number) => !active || targets[row] >= 0
  const beginOf = (row: number) => Math.floor(row / time) * batchStride + (row % time) * timeStride
  for (let row = 0; row < rows; row++) {
    if (!isWanted(row)) continue
    const first = row
    const begin = beginOf(row)
    while (row + 1 < rows && isWanted(row + 1) && beginOf(row + 1) === begin + (row + 1 - first) * vocab) row++
    work(first, begin, (row + 1 - first) * vocab)
  }
}

/** What is to be copied of rows that lie packed at this address. */
function copiesOf(rows: Rows, tokens: Tokens, active: boolean, address: number): Copies {
  const { buffer, byteOffset, BYTES_PER_ELEMENT: size } = rows.data as NumberArray
  const stretches: number[] = []
  forEachRun(rows, tokens, active, (first, begin, count) => {
    stretches.push(byteOffset + begin * size, address + first * rows.vocab * size, count * size)
  })
  return { buffer, stretches }
}
