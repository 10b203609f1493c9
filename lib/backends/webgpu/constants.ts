/**
 * Constants of WebGPU, which are not in the global scope of every implementation.
 */

/** `GPUBufferUsage` */
export const USAGE = { MAP_READ: 1, COPY_SRC: 4, COPY_DST: 8, UNIFORM: 64, STORAGE: 128 } as const

/** What tools that show the work of a device call ours. */
export const LABEL = 'fused-preference-loss'

/** `GPUMapMode.READ` */
export const MAP_READ = 1
