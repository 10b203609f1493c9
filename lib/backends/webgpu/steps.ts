/**
 * Steps: dispatches of shaders, in the order in which they run.
 */
import type { GpuDevice, GpuPass, GpuPipeline } from '../../types/index.js'
import type { Region } from './arena.js'
import type { DeviceState } from './device.js'
import type { Shader } from './shader.js'

/** A dispatch. */
export interface Step {
  shader: Shader
  /** In the order of the bindings' numbers. */
  bindings: readonly Region[]
  /** Workgroups. */
  groups: number
}

/** The grid of that many workgroups; where it has two dimensions the last row may have some too many. */
export function gridOf(groups: number, most: number): [x: number, y: number] {
  if (groups <= most) return [groups, 1]
  const y = Math.ceil(groups / most)
  return [Math.ceil(groups / y), y]
}

/** Pipelines and bindings of steps, which can then be recorded any number of times. */
export class Recording {
  private readonly groups: object[]

  constructor(
    private readonly steps: readonly Step[],
    private readonly pipelines: readonly GpuPipeline[],
    private readonly device: GpuDevice,
  ) {
    this.groups = steps.map(({ shader, bindings }, i) =>
      device.createBindGroup({
        label: shader.name,
        layout: pipelines[i].getBindGroupLayout(0),
        entries: bindings.map(({ buffer, offset, size }, binding) => ({ binding, resource: { buffer, offset, size } })),
      }),
    )
  }

  record(pass: GpuPass): void {
    const most = this.device.limits.maxComputeWorkgroupsPerDimension
    for (const [i, { groups }] of this.steps.entries()) {
      pass.setPipeline(this.pipelines[i])
      pass.setBindGroup(0, this.groups[i])
      pass.dispatchWorkgroups(...gridOf(groups, most))
    }
  }
}

/** The pipelines of steps. None is still being compiled once it fails: another try begins anew with all of them. */
export async function pipelinesOf(steps: readonly Step[], state: DeviceState): Promise<GpuPipeline[]> {
  const pipelines = steps.map(({ shader }) => state.pipeline(shader))
  await Promise.allSettled(pipelines)
  return Promise.all(pipelines)
}
