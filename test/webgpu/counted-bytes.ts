/**
 * Counts the bytes that shaders read and write of tensors: on their way to the device, shaders are changed so that each
 * access of a tensor's element adds its size to a count. A word that is read twice counts twice.
 */
import { download } from './device.js'

/** What a shader has read and written of a buffer, in bytes. */
export interface Traffic {
  shader: string
  buffer: GPUBuffer
  read: number
  written: number
}

/** Of the elements of a binding. */
const SIZES: Record<string, number> = { f32: 4, u32: 4, 'atomic<u32>': 4, vec2u: 8, vec4f: 16 }
/** The bindings of shaders that are tensors, or of the size of tensors. */
const TENSOR =
  /@binding\((\d+)\) var<storage, \w+> (logits|gradient|loadAData|loadBData|biasAtData|c|sums): array<(.+)>;/g

interface Tensor {
  name: string
  binding: number
  size: number
}

/** Where the counts are: beyond the bindings of any shader, and for each group of bindings elsewhere in their buffer. */
const BINDING = 15
const REGION = 256
const COUNTS = `@group(0) @binding(${BINDING}) var<storage, read_write> counts: array<atomic<u32>, ${REGION / 4}>;
fn counted(at: u32, count: u32, bytes: u32) -> u32 { atomicAdd(&counts[count], bytes); return at; }`

function tensorsOf(code: string): Tensor[] {
  return Array.from(code.matchAll(TENSOR), ([, binding, name, type]) => ({
    name: name!,
    binding: Number(binding),
    size: SIZES[type!]!,
  })).filter(({ size }) => size !== undefined)
}

/** The end of the brackets that begin there. */
function endOfBrackets(code: string, begin: number): number {
  let depth = 0
  for (let at = begin; ; at++) {
    if (code[at] === '[') depth++
    if (code[at] === ']' && --depth === 0) return at
  }
}

/** A function in which each access of a tensor counts: reads of the nth tensor in count 2n, writes in 2n + 1. */
function countingFunction(code: string, { name, size }: Tensor, n: number): string {
  // A variable of its own hides the tensor.
  if (new RegExp(`\\b(let|var) ${name}\\b`).test(code)) return code
  let done = ''
  let rest = code
  for (;;) {
    const found = new RegExp(`(\\w*)(\\(&)?(?<![\\w.])${name}\\[`).exec(rest)
    if (found === null) return done + rest
    const begin = found.index + found[0].length
    const end = endOfBrackets(rest, begin - 1)
    const isPart = rest[end + 1] === '['
    const after = rest.slice((isPart ? endOfBrackets(rest, end + 1) : end) + 1)
    const isAdded = / \+=/.test(after.slice(0, 3)) || /^atomic(And|Or)$/.test(found[1]!)
    const isWritten = isAdded || /^ = /.test(after) || found[1] === 'atomicStore'
    const bytes = isPart ? 4 : size
    let index = rest.slice(begin, end)
    if (isAdded || !isWritten) index = `counted(${index}, ${2 * n}, ${bytes})`
    if (isWritten) index = `counted(${index}, ${2 * n + 1}, ${bytes})`
    done += rest.slice(0, begin) + index
    rest = rest.slice(end)
  }
}

function countingShader(code: string, tensors: readonly Tensor[]): string {
  const functions = code.split(/^(?=fn |@compute)/m)
  const counting = functions.map((of) =>
    tensors.reduce((changed, tensor, n) => countingFunction(changed, tensor, n), of),
  )
  return [COUNTS, ...counting].join('\n')
}

/** Has the shaders of a device count. It must not have compiled any yet. */
export class CountedBytes {
  readonly #counts: GPUBuffer
  readonly #tensors = new WeakMap<object, Tensor[]>()
  #groups: { shader: string; tensors: { buffer: GPUBuffer }[] }[] = []

  constructor(private readonly device: GPUDevice) {
    const [STORAGE, COPY_SRC, COPY_DST] = [0x80, 4, 8]
    this.#counts = device.createBuffer({ size: 1024 * REGION, usage: STORAGE | COPY_SRC | COPY_DST })
    const { createShaderModule, createComputePipelineAsync, createBindGroup } = device
    Object.assign(device, {
      createShaderModule: (descriptor: GPUShaderModuleDescriptor) => {
        const tensors = tensorsOf(descriptor.code)
        if (tensors.length === 0) return createShaderModule.call(device, descriptor)
        const code = countingShader(descriptor.code, tensors)
        const module = createShaderModule.call(device, { ...descriptor, code })
        this.#tensors.set(module, tensors)
        return module
      },
      createComputePipelineAsync: async (descriptor: GPUComputePipelineDescriptor) => {
        const pipeline = await createComputePipelineAsync.call(device, descriptor)
        const tensors = this.#tensors.get(descriptor.compute.module)
        if (tensors === undefined) return pipeline
        const { getBindGroupLayout } = pipeline
        pipeline.getBindGroupLayout = (index) => {
          const layout = getBindGroupLayout.call(pipeline, index)
          this.#tensors.set(layout, tensors)
          return layout
        }
        return pipeline
      },
      createBindGroup: (descriptor: GPUBindGroupDescriptor) => {
        const tensors = this.#tensors.get(descriptor.layout)
        if (tensors === undefined) return createBindGroup.call(device, descriptor)
        const entries = [...descriptor.entries]
        const resources = tensors.map(({ binding }) => entries[binding]!.resource as GPUBufferBinding)
        const [shader = ''] = descriptor.label!.split(' ')
        const offset = REGION * this.#groups.length
        this.#groups.push({ shader, tensors: resources })
        const counts = { binding: BINDING, resource: { buffer: this.#counts, offset, size: REGION } }
        return createBindGroup.call(device, { ...descriptor, entries: [...entries, counts] })
      },
    })
  }

  /** What a call reads and writes. */
  async during(call: () => Promise<unknown>): Promise<Traffic[]> {
    this.#groups = []
    this.device.queue.writeBuffer(this.#counts, 0, new Uint32Array(this.#counts.size / 4))
    await call()
    const counts = new Uint32Array((await download(this.device, this.#counts)).buffer as ArrayBuffer)
    return this.#groups.flatMap(({ shader, tensors }, group) =>
      tensors.map(({ buffer }, n) => {
        const at = (group * REGION) / 4 + 2 * n
        return { shader, buffer, read: counts[at]!, written: counts[at + 1]! }
      }),
    )
  }
}

/** The bytes of a buffer, or of those of that label, that all shaders, or those of some names, have read and written. */
export function bytesOf(traffic: readonly Traffic[], of: GPUBuffer | string, shaders?: readonly string[]) {
  const some = traffic.filter(
    ({ buffer, shader }) =>
      (typeof of === 'string' ? buffer.label === of : buffer === of) && (shaders?.includes(shader) ?? true),
  )
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0)
  return { read: sum(some.map(({ read }) => read)), written: sum(some.map(({ written }) => written)) }
}
