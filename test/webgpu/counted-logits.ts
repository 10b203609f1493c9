/**
 * Shaders that count how many logits they read and how many elements of gradients they write: the functions of elements.ts
 * by which they do are changed on their way to the device.
 */

/** Where the counts are: beyond the bindings of any shader. */
const BINDING = 15
const COUNTS = `@group(0) @binding(${BINDING}) var<storage, read_write> counts: array<atomic<u32>, 2>;`

/** What is added to which count by a call. */
const ADDED = { loadLogit: [0, 1], loadLogits4: [0, 4], storeGradient: [1, 1], storeGradient4: [1, 4] } as const

function counting(code: string): string {
  let found = false
  const counted = code.replace(/^(fn (\w+)\(at: u32[^{]*\{)/gm, (whole, head: string, name: string) => {
    const added = ADDED[name as keyof typeof ADDED]
    if (added === undefined) return whole
    found = true
    return `${head} atomicAdd(&counts[${added[0]}], ${added[1]}u);`
  })
  return found ? `${COUNTS}\n${counted}` : code
}

/** Has the shaders of a device count into a buffer of two numbers. It must not have compiled any yet. */
export function countLogits(device: GPUDevice): GPUBuffer {
  const [STORAGE, COPY_SRC, COPY_DST] = [0x80, 4, 8]
  const counts = device.createBuffer({ size: 8, usage: STORAGE | COPY_SRC | COPY_DST })
  const modules = new WeakSet<object>()
  const layouts = new WeakSet<object>()
  const { createShaderModule, createComputePipelineAsync, createBindGroup } = device
  Object.assign(device, {
    createShaderModule(descriptor: GPUShaderModuleDescriptor) {
      const code = counting(descriptor.code)
      const module = createShaderModule.call(device, { ...descriptor, code })
      if (code !== descriptor.code) modules.add(module)
      return module
    },
    async createComputePipelineAsync(descriptor: GPUComputePipelineDescriptor) {
      const pipeline = await createComputePipelineAsync.call(device, descriptor)
      if (!modules.has(descriptor.compute.module)) return pipeline
      const { getBindGroupLayout } = pipeline
      pipeline.getBindGroupLayout = (index) => {
        const layout = getBindGroupLayout.call(pipeline, index)
        layouts.add(layout)
        return layout
      }
      return pipeline
    },
    createBindGroup(descriptor: GPUBindGroupDescriptor) {
      const more = layouts.has(descriptor.layout) ? [{ binding: BINDING, resource: { buffer: counts } }] : []
      return createBindGroup.call(device, { ...descriptor, entries: [...descriptor.entries, ...more] })
    },
  })
  return counts
}
