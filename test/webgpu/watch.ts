/**
 * What a device is asked for: buffers that are made and destroyed, and copies between them.
 */

/** A copy of so many bytes between two buffers. */
export interface Copy {
  from: GPUBuffer
  to: GPUBuffer
  bytes: number
}

/** What has been asked of a device since. */
export interface Watched {
  /** Buffers that have been made and not been destroyed. */
  readonly live: ReadonlySet<GPUBuffer>
  /** The most bytes that these have had at once. */
  peak: number
  readonly copies: Copy[]
  /** Nothing has been asked so far. */
  forget(): void
  /** Asks of the device are no longer looked at. */
  stop(): void
}

/** Watches a device, by methods of its own in the place of those of its prototype. */
export function watch(device: GPUDevice): Watched {
  const live = new Set<GPUBuffer>()
  let bytes = 0
  const watched: Watched = {
    live,
    peak: 0,
    copies: [],
    forget() {
      live.clear()
      bytes = 0
      watched.peak = 0
      watched.copies.length = 0
    },
    stop() {
      for (const name of ['createBuffer', 'createCommandEncoder'] as const) Reflect.deleteProperty(device, name)
    },
  }
  const { createBuffer, createCommandEncoder } = device
  Object.assign(device, {
    createBuffer(descriptor: GPUBufferDescriptor) {
      const buffer = createBuffer.call(device, descriptor)
      live.add(buffer)
      bytes += buffer.size
      watched.peak = Math.max(watched.peak, bytes)
      const { destroy } = buffer
      buffer.destroy = () => {
        if (live.delete(buffer)) bytes -= buffer.size
        return destroy.call(buffer)
      }
      return buffer
    },
    createCommandEncoder(descriptor?: GPUCommandEncoderDescriptor) {
      const encoder = createCommandEncoder.call(device, descriptor)
      const { copyBufferToBuffer } = encoder
      encoder.copyBufferToBuffer = (...given: unknown[]) => {
        // The form without offsets has three arguments.
        const [from, to] = (given.length > 3 ? [given[0], given[2]] : given) as [GPUBuffer, GPUBuffer]
        watched.copies.push({ from, to, bytes: (given[given.length > 3 ? 4 : 2] as number | undefined) ?? from.size })
        return copyBufferToBuffer.apply(encoder, given as never)
      }
      return encoder
    },
  })
  return watched
}

/**
 * Copies of a trainer's arrays: all but those of ids to the device, and of small results from one buffer of ours to another.
 */
export function copiesOfArrays({ copies }: Watched, { inputIds, rows }: { inputIds: Int32Array; rows: number }) {
  const isOurs = ({ label }: GPUBuffer) => label.startsWith('fused-preference-loss')
  const areIds = ({ usage }: GPUBuffer, bytes: number) =>
    (usage & GPUBufferUsage.MAP_WRITE) !== 0 && bytes <= inputIds.byteLength
  const areResults = (from: GPUBuffer, to: GPUBuffer, bytes: number) => isOurs(from) && isOurs(to) && bytes < 256 * rows
  return copies.filter(({ from, to, bytes }) => !areIds(from, bytes) && !areResults(from, to, bytes))
}
