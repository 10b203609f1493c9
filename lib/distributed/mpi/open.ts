/**
 * Starts MPI in this process.
 */
import { fstatSync } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
import { loadNative } from '../../backends/cpu/index.js'
import { optionsObject } from '../../check/options.js'
import { failure, invalidType, invalidValue } from '../../errors.js'
import { called, type MpiCommunicator, World } from './communicator.js'
import { findLibrary, launcherOf, VARIABLE } from './libraries.js'

/** Options of {@link mpiCommunicator}. */
export interface MpiOptions {
  /**
   * Path of libmpi, or its name for the dynamic linker. Defaults to the environment variable
   * `FUSED_PREFERENCE_LOSS_MPI`, else to the library that belongs to the `mpirun` that has started this process, else
   * to the first that is installed.
   */
  library?: string | undefined
}

const OPTIONS = new Set(['library'])

/** The most bytes of a message: MPI counts them in 32 bits. */
const LONGEST_MESSAGE = 2 ** 30

let opened: World | undefined

/**
 * All processes that `mpirun` has started, as a communicator; one process of 1 without `mpirun`. The first call starts
 * MPI, which blocks the calling thread for as long as it takes; later calls give the same object.
 *
 * MPI belongs to the process: the main thread alone can use it, and workers get `ERR_MPI`. When the process ends, MPI ends
 * with it. With exit code 0 it first waits until all ranks have come to their ends; collectives that others still call
 * reject with `ERR_RANK_FAILED`. With another exit code, or by an uncaught error, it ends all ranks (`MPI_Abort`).
 * @throws Error `ERR_BACKEND_UNAVAILABLE` (no library of MPI: it says what to install), `ERR_MPI`,
 *   `ERR_FEATURE_UNAVAILABLE_ON_PLATFORM` (Windows); TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`.
 */
export async function mpiCommunicator(options?: MpiOptions): Promise<MpiCommunicator> {
  const { library } = optionsObject(options, 'options', OPTIONS)
  if (library !== undefined && typeof library !== 'string') throw invalidType('options.library', 'a string', library)
  opened ??= open(library)
  if (library !== undefined && library !== opened.library) {
    throw invalidValue('options.library', `is '${library}', but MPI runs already, with ${opened.library}`)
  }
  return opened
}

function open(chosen: string | undefined): World {
  if (!isMainThread) throw failure('ERR_MPI', 'MPI belongs to the process: its main thread alone can use it, no worker')
  if (process.platform === 'win32') {
    throw failure('ERR_FEATURE_UNAVAILABLE_ON_PLATFORM', 'MPI is not supported on Windows; WSL has it')
  }
  const native = loadNative()
  if ('reason' in native) throw failure('ERR_BACKEND_UNAVAILABLE', `MPI needs the native binary: ${native.reason}`)
  const { addon } = native
  // UCX, which libraries of MPI may use, tries its memory hooks by moving the end of the heap up and back again, and so
  // takes away what another thread is given meanwhile: a process of several threads crashes, once in some forty times.
  process.env.UCX_MEM_EVENTS ??= 'no'
  checkConnection(process.env)
  const library = findLibrary(addon.mpi, chosen ?? (process.env[VARIABLE] || undefined))
  called(() => addon.mpi.open(library.path, LONGEST_MESSAGE))
  process.on('exit', (code) => addon.mpi.exiting(code))
  const { rank, size } = addon.mpi.world()!
  const launcher = launcherOf(process.env)
  if (launcher && launcher.size > 1 && size === 1) {
    const problem = `${launcher.name}'s mpirun has started ${launcher.size} processes, but ${library.path} (${library.version}) knows of one`
    throw failure('ERR_MPI', `${problem}; set ${VARIABLE} to the libmpi of that mpirun, or use the other's mpirun`)
  }
  return new World(addon, library, { rank, size })
}

/**
 * MPICH's mpirun talks to its processes by a file that each inherits; npm does not pass it on to what it starts, and MPICH
 * would end the process.
 */
function checkConnection({ PMI_FD, ...environment }: NodeJS.ProcessEnv): void {
  if (PMI_FD === undefined || launcherOf(environment)?.isOpenMpi !== false) return
  if (isSocket(Number(PMI_FD))) return
  const reason = 'what stands between, such as npm, has closed its connection to mpirun'
  const remedy = 'let mpirun start node itself, or use -pmi-port'
  throw failure('ERR_MPI', `this process was started by MPICH, but ${reason}; ${remedy}`)
}

/** Whether the descriptor is one; a number that is free is soon taken by a file of Node.js. */
function isSocket(descriptor: number): boolean {
  try {
    return fstatSync(descriptor).isSocket()
  } catch {
    return false
  }
}
