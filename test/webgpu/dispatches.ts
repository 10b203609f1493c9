/**
 * Shaders by themselves, for tests: a shader's one entry point runs on buffers in the order of its bindings, the first of
 * which is a uniform.
 */
import type { Shader } from '../../lib/backends/webgpu/shader.js'
import { download, upload } from './device.js'

/** What a buffer begins with, or how many bytes of it there are. */
type Contents = ArrayBufferView | ArrayBuffer | number

const [UNIFORM, STORAGE, COPY_SRC, COPY_DST] = [0x40, 0x80, 4, 8]

export class Dispatches {
  readonly #buffers: GPUBuffer[] = []
  readonly #pipelines = new Map<string, Promise<GPUComputePipeline>>()

  constructor(private readonly device: GPUDevice) {}

  uniform(contents: Contents): GPUBuffer {
    return this.#buffer(contents, UNIFORM | COPY_DST)
  }

  storage(contents: Contents): GPUBuffer {
    return this.#buffer(contents, STORAGE | COPY_SRC | COPY_DST)
  }

  #buffer(contents: Contents, usage: number): GPUBuffer {
    const buffer = upload(this.device, bytesOf(contents), usage)
    this.#buffers.push(buffer)
    return buffer
  }

  async run(shader: Shader, buffers: readonly GPUBuffer[], groups: number): Promise<void> {
    const pipeline = await this.#pipelineOf(shader)
    const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }))
    const encoder = this.device.createCommandEncoder()
    const pass = encoder.beginComputePass()
    pass.setPipeline(pipeline)
    pass.setBindGroup(0, this.device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }))
    pass.dispatchWorkgroups(groups)
    pass.end()
    this.device.queue.submit([encoder.finish()])
  }

  #pipelineOf({ name, code }: Shader): Promise<GPUComputePipeline> {
    let pipeline = this.#pipelines.get(name)
    if (pipeline === undefined) {
      const module = this.device.createShaderModule({ label: name, code })
      pipeline = this.device.createComputePipelineAsync({ layout: 'auto', compute: { module } as GPUProgrammableStage })
      this.#pipelines.set(name, pipeline)
    }
    return pipeline
  }

  async read(buffer: GPUBuffer): Promise<Float32Array> {
    const bytes = await download(this.device, buffer)
    return new Float32Array(bytes.buffer)
  }

  /** The buffers are gone, the pipelines are kept. */
  free(): void {
    for (const buffer of this.#buffers.splice(0)) buffer.destroy()
  }
}

function bytesOf(contents: Contents): Uint8Array {
  if (typeof contents === 'number') return new Uint8Array(Math.max(contents, 16))
  if (contents instanceof ArrayBuffer) return new Uint8Array(contents)
  return new Uint8Array(contents.buffer, contents.byteOffset, contents.byteLength)
}
