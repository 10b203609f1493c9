/**
 * Streams, events and graphs of the CUDA runtime.
 */

import { optionsObject } from '../../check/options.js'
import { invalidType, invalidValue } from '../../errors.js'
import type { RunOptions } from '../../types/index.js'
import { DEVICE_OPTION, streamOf } from './addresses.js'
import { cudaCall, cudaPromise } from './calls.js'
import { Handle } from './handle.js'
import { Capture, enqueued, Holds, keepAlive } from './holds.js'
import { nextId } from './index.js'
import { cudaFunctions } from './open.js'

/** Work that runs on a GPU in the order in which it was enqueued. Streams of one GPU run concurrently. */
export class Stream extends Handle {
  /** Index of the GPU. */
  readonly device: number

  /** @param options `device`: index of the GPU. Defaults to 0. */
  constructor(options?: { device?: number }) {
    const { device = 0 } = optionsObject(options, 'options', DEVICE_OPTION)
    const cuda = cudaFunctions()
    const stream = cudaCall(() => cuda.createStream(device))
    super(stream, () => cudaCall(() => cuda.destroyStream(device, stream)))
    this.device = device
  }

  /**
   * What is enqueued here from now on waits for the work before the last `event.record`, on the GPU alone. The event may be
   * of another stream, and of another GPU. One that was never recorded is not waited for.
   * @throws TypeError `ERR_INVALID_ARG_TYPE`; Error `ERR_DISPOSED`, `ERR_CUDA`
   */
  wait(event: Event): void {
    if (!isEvent(event)) throw invalidType('event', 'an Event', event)
    waitForEvent(this, event)
  }

  /** Waits, off the calling thread, for all enqueued work. */
  async synchronize(): Promise<void> {
    const { device, handle } = this
    const holds = new Holds([this])
    try {
      await cudaPromise(cudaFunctions().synchronizeAsync(nextId(), device, handle))
    } finally {
      holds.letGo(false)
    }
  }

  /** Waits for all enqueued work. */
  synchronizeSync(): void {
    cudaCall(() => cudaFunctions().synchronize(this.device, this.handle))
  }

  /**
   * Captures the work that `enqueue` enqueues on this stream as a graph, without running it. The graph keeps everything
   * alive that it needs: prepared calls and their memory, buffers that are copied, events.
   * @throws the errors of `enqueue`; TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE` (it returned a promise);
   *   Error `ERR_CUDA`
   */
  capture(enqueue: () => void): Graph {
    if (typeof enqueue !== 'function') throw invalidType('enqueue', 'a function', enqueue)
    const cuda = cudaFunctions()
    const { device, handle } = this
    cudaCall(() => cuda.beginCapture(device, handle))
    const capture = new Capture()
    try {
      const returned: unknown = enqueue()
      if (returned instanceof Promise) {
        throw invalidValue('enqueue', 'must not return a promise: work that it enqueues later would not be captured')
      }
      const graph = cudaCall(() => cuda.endCapture(device, handle))
      return new Graph(device, graph, capture)
    } catch (error) {
      cuda.discardCapture(device, handle)
      capture.holds.letGo(false)
      throw error
    } finally {
      capture.end()
    }
  }
}

// By shape: it may be of another copy of this package.
function isEvent(value: unknown): value is Event {
  return typeof value === 'object' && value !== null && 'millisecondsTo' in value
}

/** What is enqueued on the stream from now on waits for the event. `stream`: of the event's device, where it is an address. */
export function waitForEvent(stream: NonNullable<RunOptions['stream']>, event: Event): void {
  const { device = event.device } = Object(stream) as Partial<Stream>
  const address = Number(streamOf(stream))
  cudaCall(() => cudaFunctions().waitForEvent(device, address, event.handle))
  enqueued(event)
}

/** Enqueued work that can be launched again as a whole. */
export class Graph extends Handle {
  /** @internal */
  constructor(
    readonly device: number,
    graph: number,
    { things, holds }: Capture,
  ) {
    const cuda = cudaFunctions()
    super(graph, (isForgotten) => {
      try {
        cudaCall(() => cuda.destroyGraph(device, graph))
      } finally {
        holds.letGo(isForgotten)
      }
    })
    keepAlive(this, things)
  }

  /** Enqueues the whole graph on a stream; on the default stream when none is given. */
  launch(stream: NonNullable<RunOptions['stream']> = 0): void {
    const address = Number(streamOf(stream, this.device))
    cudaCall(() => cudaFunctions().launchGraph(this.device, this.handle, address))
    enqueued(this)
  }
}

/** A point in the work of a stream. */
export class Event extends Handle {
  /** Index of the GPU. */
  readonly device: number

  /** @param options `device`: index of the GPU. Defaults to 0. */
  constructor(options?: { device?: number }) {
    const { device = 0 } = optionsObject(options, 'options', DEVICE_OPTION)
    const cuda = cudaFunctions()
    const event = cudaCall(() => cuda.createEvent(device))
    super(event, () => cudaCall(() => cuda.destroyEvent(device, event)))
    this.device = device
  }

  /** Marks the end of the work enqueued so far. */
  record(stream: NonNullable<RunOptions['stream']> = 0): void {
    const address = Number(streamOf(stream, this.device))
    cudaCall(() => cudaFunctions().recordEvent(this.device, this.handle, address))
    enqueued(this)
  }

  /** Waits for a later event and returns the milliseconds from this event to it. */
  millisecondsTo(end: Event): number {
    return cudaCall(() => cudaFunctions().milliseconds(this.device, this.handle, end.handle))
  }
}
