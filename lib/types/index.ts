/**
 * The public types, by subject.
 */
export type * from './asked.js'
export type * from './communicator.js'
export type * from './options.js'
export type * from './result-parts.js'
export type * from './results.js'
export type * from './tensors.js'
export type * from './unpaired.js'
export type * from './webgpu.js'
