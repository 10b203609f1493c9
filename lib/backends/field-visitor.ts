/**
 * How the fields of a job are visited: the writer of a job's arguments, the list of all fields, and whoever else goes through
 * them are visitors of `visitFields`.
 */
import type { DevicePlace, Place, RunSettings } from '../job.js'
import type { LossType, UnpairedLossType } from '../types/index.js'

/** The kinds of a job's arrays by their elements; a tensor's array has the tensor's dtype. */
export interface Elements {
  int32: Int32Array
  float32: Float32Array
  float64: Float64Array
  tensor: Place
  address: DevicePlace
}

/** The addon's numbers for losses and settings. */
export interface Codes {
  lossOf(lossType: LossType): number
  unpairedLossOf(lossType: UnpairedLossType): number
  instructionSetOf(settings: RunSettings): number
  threadsOf(settings: RunSettings): number
}

/** Visits the fields of a job, in the addon's order. */
export interface FieldVisitor {
  /** The fields that follow belong to this part. */
  part(part: Part): void
  /** An array that the job reads. */
  in<E extends keyof Elements>(name: string, elements: E, array: Elements[E] | undefined): void
  /** An array that the job writes. */
  out<E extends keyof Elements>(name: string, elements: E, array: Elements[E] | undefined): void
  /** A number. Its full name is `owner`.`name`, if it has an owner. */
  number(name: string, value: number, owner?: string): void
}

/** The fields of one stage: a job has all of them, or none when it does not run that stage. */
export class Part {
  /** Index of its first field. */
  begin = 0
}
