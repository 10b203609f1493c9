/**
 * A job in the form that the addon takes: a value for each field, written where the addon reads it, and the arrays that
 * must be passed.
 */
import type { Job, RunSettings } from '../../job.js'
import { FIELD_COUNT, NO_CODES, sharedFields } from '../field-list.js'
import type { Codes, Elements, FieldVisitor, Part } from '../field-visitor.js'
import { visitFields } from '../job-fields.js'
import type { Addon, JobArgument, NativeArray } from './addon.js'

/**
 * V8 keeps arrays up to this many bytes inside the typed array object: native code can only use them once V8 has
 * allocated a buffer.
 */
export const SLOT_BYTES = 64

/** Where small arrays are put for a call: one slot per field. */
export interface Slots {
  /** Puts an array into the slot of field i, if it is small enough. */
  put(i: number, array: NativeArray, isResult: boolean): boolean
}

/** Values of array fields. 0: the array is absent; k > 0: it has k - 1 elements, is in its slot, and is not passed. */
const PASSED = -1
const ADDRESS = -2

/** The arguments of jobs for an addon. */
export class JobArguments implements FieldVisitor {
  private readonly values: Float64Array
  private readonly codes: Codes
  // State of the current job.
  private field = 0
  private slots: Slots | undefined
  private passed: JobArgument[] = []

  /** `defaultSet` and `defaultThreads`: of jobs whose settings do not say. */
  constructor(
    { values, lossNames, unpairedLossNames, instructionSets }: Addon,
    defaultSet: number,
    defaultThreads: number,
  ) {
    this.values = values
    const lossCodes = new Map(lossNames.map((name, code) => [name, code]))
    this.codes = {
      lossOf: (lossType) => lossCodes.get(lossType) as number,
      unpairedLossOf: (lossType) => unpairedLossNames.indexOf(lossType),
      instructionSetOf: ({ instructionSet }) => (instructionSet ? instructionSets.indexOf(instructionSet) : defaultSet),
      threadsOf: ({ threads }) => threads || defaultThreads,
    }
  }

  /**
   * The arrays to pass for a job; they must be passed before the next call. Small arrays go into slots, if there are
   * any.
   */
  of(job: Job, settings: RunSettings, slots?: Slots): JobArgument[] {
    const passed: JobArgument[] = []
    this.values.fill(0, 0, FIELD_COUNT)
    this.passed = passed
    this.slots = slots
    visitFields(this, job, settings, this.codes)
    this.passed = []
    return passed
  }

  part({ begin }: Part): void {
    this.field = begin
  }

  in<E extends keyof Elements>(_name: string, _elements: E, array: Elements[E] | undefined): void {
    this.array(array as JobArgument | undefined, false)
  }

  out<E extends keyof Elements>(_name: string, _elements: E, array: Elements[E] | undefined): void {
    this.array(array as JobArgument | undefined, true)
  }

  number(_name: string, value: number): void {
    this.values[this.field++] = value
  }

  private array(array: JobArgument | undefined, isResult: boolean): void {
    const field = this.field++
    if (array === undefined) return
    if (typeof array !== 'bigint' && this.slots?.put(field, array, isResult)) {
      this.values[field] = array.length + 1
    } else {
      this.values[field] = typeof array === 'bigint' ? ADDRESS : PASSED
      this.passed.push(array)
    }
  }
}

/** The arrays of a job that are in the host's memory. */
export function hostArraysOf(job: Job, settings: RunSettings): NativeArray[] {
  const found: NativeArray[] = []
  const add = (_name: string, _elements: string, array: unknown) => {
    if (typeof array === 'object') found.push(array as NativeArray)
  }
  visitFields({ part() {}, in: add, out: add, number() {} }, job, settings, NO_CODES)
  return found
}

/** Everything on which the addon must agree, as text. */
export function jobFields(): string {
  return `${sharedFields()}slot bytes ${SLOT_BYTES}\n`
}
