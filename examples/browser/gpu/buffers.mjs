// Arrays in buffers of a GPU and back.

/** @typedef {ArrayBufferView<ArrayBuffer>} View */

/** A buffer that shaders read and write, with a copy of these bytes. */
export function upload(/** @type {GPUDevice} */ device, /** @type {View} */ array) {
  const buffer = create(device, array.byteLength)
  const padded = new Uint8Array(buffer.size)
  padded.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
  device.queue.writeBuffer(buffer, 0, padded)
  return buffer
}

/** A buffer of at least so many bytes. */
export function create(/** @type {GPUDevice} */ device, /** @type {number} */ byteLength) {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
  return device.createBuffer({ size: Math.max(4, Math.ceil(byteLength / 4) * 4), usage })
}

/** A copy of the bytes of a buffer. */
export async function download(/** @type {GPUDevice} */ device, /** @type {GPUBuffer} */ from) {
  const to = device.createBuffer({ size: from.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
  const encoder = device.createCommandEncoder()
  encoder.copyBufferToBuffer(from, 0, to, 0, from.size)
  device.queue.submit([encoder.finish()])
  await to.mapAsync(GPUMapMode.READ)
  const bytes = to.getMappedRange().slice(0)
  to.destroy()
  return bytes
}

/** Numbers in [0, 1), the same each time. */
export function numbers(seed = 1) {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}
