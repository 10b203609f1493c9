/**
 * `fused-preference-loss/mpi`: the processes that `mpirun` has started, as a communicator. The library of MPI is opened
 * when the program runs.
 */
export type { Communicator } from '../../types/index.js'
export type { MpiCommunicator } from './communicator.js'
export { type MpiOptions, mpiCommunicator } from './open.js'
