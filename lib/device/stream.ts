/**
 * Streams, events and graphs of the CUDA runtime.
 */
import { cudaCall, cudaPromise, nextId } from '../backends/cuda.js'
import type { RunOptions } from '../types.js'
import { Handle } from './handle.js'
import { streamOf } from './memory.js'
import { cudaFunctions } from './open.js'

/** Work that runs on a GPU in the order in which it was enqueued. Streams of one GPU run beside each other. */
export class Stream extends Handle {
  /** Index of the GPU. */
  readonly device: number

  /** @param options `device`: index of the GPU. Defaults to 0. */
  constructor({ device = 0 }: { device?: number } = {}) {
    const cuda = cudaFunctions()
    const stream = cudaCall(() => cuda.createStream(device))
    super(stream, () => cudaCall(() => cuda.destroyStream(stream)))
    this.device = device
  }

  /** Waits, off the calling thread, for all that has been enqueued. */
  async synchronize(): Promise<void> {
    await cudaPromise(cudaFunctions().synchronizeAsync(nextId(), this.device, this.handle))
  }

  /** Waits for all that has been enqueued. */
  synchronizeSync(): void {
    cudaCall(() => cudaFunctions().synchronize(this.device, this.handle))
  }

  /** What `enqueue` enqueues on this stream, as a graph; it does not run yet. */
  capture(enqueue: () => void): Graph {
    const cuda = cudaFunctions()
    const { device, handle } = this
    cudaCall(() => cuda.beginCapture(device, handle))
    let graph: number | undefined
    try {
      enqueue()
    } finally {
      graph = cudaCall(() => cuda.endCapture(device, handle))
    }
    return new Graph(device, graph)
  }
}

/** Enqueued work that can be launched again as a whole. */
export class Graph extends Handle {
  /** @internal */
  constructor(
    readonly device: number,
    graph: number,
  ) {
    const cuda = cudaFunctions()
    super(graph, () => cudaCall(() => cuda.destroyGraph(graph)))
  }

  /** Enqueues the whole on a stream; on the default stream when none is given. */
  launch(stream: NonNullable<RunOptions['stream']> = 0): void {
    cudaCall(() => cudaFunctions().launchGraph(this.device, this.handle, Number(streamOf(stream))))
  }
}

/** A moment on a stream. */
export class Event extends Handle {
  /** Index of the GPU. */
  readonly device: number

  /** @param options `device`: index of the GPU. Defaults to 0. */
  constructor({ device = 0 }: { device?: number } = {}) {
    const cuda = cudaFunctions()
    const event = cudaCall(() => cuda.createEvent(device))
    super(event, () => cudaCall(() => cuda.destroyEvent(event)))
    this.device = device
  }

  /** Marks the end of what has been enqueued so far. */
  record(stream: NonNullable<RunOptions['stream']> = 0): void {
    cudaCall(() => cudaFunctions().recordEvent(this.device, this.handle, Number(streamOf(stream))))
  }

  /** Milliseconds from this event to a later one, which is waited for. */
  millisecondsTo(end: Event): number {
    return cudaCall(() => cudaFunctions().milliseconds(this.handle, end.handle))
  }
}
