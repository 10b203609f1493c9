/**
 * What this package uses of WebGPU, typed structurally, so that programs compile whose type libraries do not have it. The
 * browser's own objects fit, and those of Dawn and wgpu.
 */

/** A `GPUBuffer`. */
export interface GpuBuffer {
  readonly size: number
  /** A buffer has none; arrays and other memory do. */
  readonly byteLength?: undefined
  readonly usage: number
  readonly mapState: string
  label: string
  mapAsync(mode: number, offset?: number, size?: number): Promise<unknown>
  getMappedRange(offset?: number, size?: number): ArrayBuffer
  unmap(): void
  destroy(): void
}

/** Part of a `GPUBuffer`. */
export interface GpuRange {
  readonly buffer: GpuBuffer
  /** First byte: a multiple of the element size. Defaults to 0. */
  readonly byteOffset?: number | undefined
  /** Size in bytes. Defaults to all that follows. */
  readonly byteLength?: number | undefined
}

/** Memory of a WebGPU device: a `GPUBuffer` with `STORAGE` among its usages, or part of one. */
export type GpuMemory = GpuBuffer | GpuRange

/** A `GPUDevice`: the caller's own. */
export interface GpuDevice {
  readonly limits: GpuLimits
  readonly adapterInfo?: {
    readonly architecture?: string
    readonly description?: string
    readonly isFallbackAdapter?: boolean
  }
  readonly features: { has(feature: string): boolean }
  readonly queue: GpuQueue
  readonly lost: Promise<{ readonly reason: string; readonly message: string }>
  createBuffer(descriptor: { size: number; usage: number; label?: string; mappedAtCreation?: boolean }): GpuBuffer
  createShaderModule(descriptor: { code: string; label?: string }): GpuShaderModule
  createBindGroup(descriptor: { layout: object; entries: Iterable<object>; label?: string }): object
  createComputePipelineAsync(descriptor: {
    layout: object | 'auto'
    compute: { module: object; entryPoint?: string }
    label?: string
  }): Promise<GpuPipeline>
  createCommandEncoder(descriptor?: { label?: string }): GpuEncoder
  pushErrorScope(filter: 'validation' | 'out-of-memory' | 'internal'): unknown
  popErrorScope(): Promise<{ readonly message: string } | null>
}

export interface GpuLimits {
  readonly maxBufferSize: number
  readonly maxStorageBufferBindingSize: number
  readonly minStorageBufferOffsetAlignment: number
  readonly minUniformBufferOffsetAlignment: number
  readonly maxComputeWorkgroupsPerDimension: number
  readonly maxStorageBuffersPerShaderStage: number
  readonly maxComputeInvocationsPerWorkgroup: number
}

export interface GpuQueue {
  submit(buffers: Iterable<object>): unknown
  writeBuffer(buffer: GpuBuffer, offset: number, data: ArrayBufferView<ArrayBuffer>): unknown
  onSubmittedWorkDone(): Promise<unknown>
}

export interface GpuShaderModule {
  getCompilationInfo(): Promise<{
    readonly messages: readonly { readonly type: string; readonly message: string; readonly lineNum: number }[]
  }>
}

export interface GpuPipeline {
  getBindGroupLayout(index: number): object
}

/** A `GPUCommandEncoder`. */
export interface GpuEncoder {
  beginComputePass(descriptor?: { label?: string }): GpuPass
  copyBufferToBuffer(from: GpuBuffer, fromOffset: number, to: GpuBuffer, toOffset: number, size: number): unknown
  finish(): object
}

/** A `GPUComputePassEncoder`. */
export interface GpuPass {
  setPipeline(pipeline: object): unknown
  setBindGroup(index: number, group: object | null | undefined): unknown
  dispatchWorkgroups(x: number, y?: number, z?: number): unknown
  end(): unknown
}
