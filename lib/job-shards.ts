/**
 * What a job of job.ts has where its logits are a share of a larger vocabulary.
 */

/**
 * The logits are columns of those of a larger vocabulary: the V of all shapes is that of the columns at hand, but for
 * classes.
 */
export interface Shard {
  /** The first of the columns. */
  start: number
  /** The size of the vocabulary. */
  vocab: number
}

/**
 * What stage 1 knows of each row, segment by segment of its vocabulary. A job in which `bounds` are given fills the states
 * from the columns that it has, and does nothing else; one without them begins from the states of whole rows, in the order
 * of columns.
 */
export interface SegmentStates {
  /** The columns at which segments begin, from 0, and V. */
  bounds?: Int32Array
  /** States of a row; 1 where those of all segments are merged. */
  count: number
  /** `[R, count]` of as many 32-bit words each as the other fields of the stage need: see lib/call/segments.ts. */
  states: Int32Array
  /** `[R]` the logits of labels, capped; a job fills those of labels that are among its columns. */
  labelLogits: Float32Array
  /** Of the cpu backend: logits of an output layer that the first job leaves to the second, rows of 16 words and more. */
  keptLogits?: Float32Array
}

/**
 * The ranks with which a job exchanges the states of segments by itself, and adds up the gradient of hidden: the cuda
 * backend's, over NCCL. Its `segments` are then absent.
 */
export interface StateExchange {
  /** The address of a communicator. */
  communicator: bigint
  /** `[2 ranks]` the first of the columns that each rank has, and their end. */
  columns: Int32Array
  /** Each rank sends one state of a row. */
  merges: boolean
}

/** Something to wait for, off the calling thread or on it. */
export interface Wait {
  run(): Promise<void>
  runSync(): void
}

/** A job in two parts. */
export interface JobInParts {
  /** Takes the memory that it needs, and waits for no other rank. */
  ready: Wait
  /** All else. */
  rest: Wait
  /** Gives back what it has taken, whatever has become of it. */
  end(): void
}
