/**
 * What is kept for each device of the caller's, as long as the device is: its pipelines, and whether it is lost.
 */
import { failure } from '../../errors.js'
import type { GpuDevice, GpuPipeline } from '../../types/index.js'
import type { Shader } from './shader.js'

/** What is known of a device. */
export class DeviceState {
  private readonly pipelines = new Map<string, Promise<GpuPipeline>>()
  private loss: string | undefined

  constructor(readonly device: GpuDevice) {
    device.lost.then(({ reason, message }) => {
      this.loss = `the GPUDevice is lost (${reason}): ${message}`
    })
  }

  /** Throws `ERR_DEVICE_LOST` where the device is known to be lost. */
  checkThere(): void {
    if (this.loss !== undefined) throw failure('ERR_DEVICE_LOST', this.loss)
  }

  /** The pipeline of a shader, which is compiled once. */
  pipeline(shader: Shader): Promise<GpuPipeline> {
    let pipeline = this.pipelines.get(shader.name)
    if (pipeline === undefined) {
      pipeline = this.compile(shader)
      this.pipelines.set(shader.name, pipeline)
      pipeline.catch(() => this.pipelines.delete(shader.name))
    }
    return pipeline
  }

  private async compile({ name, code }: Shader): Promise<GpuPipeline> {
    const { device } = this
    device.pushErrorScope('validation')
    const module = device.createShaderModule({ label: name, code })
    const pipeline = device.createComputePipelineAsync({ label: name, layout: 'auto', compute: { module } })
    const problem = device.popErrorScope()
    try {
      const [made] = await Promise.all([pipeline, problem])
      return made
    } catch (error) {
      await this.checkStillThere()
      const { messages } = await module.getCompilationInfo()
      const lines = messages.map(({ lineNum, message }) => `line ${lineNum}: ${message}`).join('; ')
      throw failure('ERR_WEBGPU', `the shader ${name} does not compile: ${lines || (error as Error).message}`)
    }
  }

  /** Does work on the device, whose errors it waits for. */
  async checked<T>(work: () => T): Promise<T> {
    const { device } = this
    this.checkThere()
    for (const filter of ['internal', 'out-of-memory', 'validation'] as const) device.pushErrorScope(filter)
    const errors: Promise<{ readonly message: string } | null>[] = []
    let result: T
    try {
      result = work()
    } finally {
      for (let i = 0; i < 3; i++) errors.push(device.popErrorScope())
    }
    const [validation, memory, internal] = await this.awaited(Promise.all(errors))
    const error = validation ?? internal
    if (memory ?? error) await this.checkStillThere()
    if (memory) throw failure('ERR_OUT_OF_MEMORY', `the GPU is out of memory: ${memory.message}`)
    if (error) throw failure('ERR_WEBGPU', error.message)
    return result
  }

  /** What a promise of the device gives; its error, where the device is not lost, has a code of ours. */
  async awaited<T>(promise: Promise<T>): Promise<T> {
    try {
      return await promise
    } catch (error) {
      await this.checkStillThere()
      throw failure('ERR_WEBGPU', (error as Error).message)
    }
  }

  /** {@link checkThere} after an error, which may be there before it is known that the device is lost. */
  private async checkStillThere(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve))
    this.checkThere()
  }
}

const states = new WeakMap<GpuDevice, DeviceState>()

/** What is kept for a device. */
export function stateOf(device: GpuDevice): DeviceState {
  let state = states.get(device)
  if (state === undefined) {
    state = new DeviceState(device)
    states.set(device, state)
  }
  return state
}

/** Whether a device is a program on the processor, such as Chromium's SwiftShader and Mesa's lavapipe. */
export function isSoftware({ adapterInfo }: GpuDevice): boolean {
  if (adapterInfo === undefined) return false
  const { isFallbackAdapter, architecture, description } = adapterInfo
  return isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe/i.test(`${architecture} ${description}`)
}

/** Whether shaders of a device have operations of subgroups, and know which subgroup they are in. */
export function hasSubgroups({ features }: GpuDevice): boolean {
  const { navigator } = globalThis as { navigator?: { gpu?: { wgslLanguageFeatures?: ReadonlySet<string> } } }
  return features.has('subgroups') && navigator?.gpu?.wgslLanguageFeatures?.has('subgroup_id') === true
}
