/**
 * `fused-preference-loss/nccl`: collectives on device memory, between processes with a GPU each.
 */
export type { NcclCommunicator, SummedType } from './communicator.js'
export { type NcclOptions, ncclCommunicator } from './connect.js'
