/**
 * Jobs of several processes, under every MPI of this machine: Debian's Open MPI and MPICH, and those of PyPI that
 * scripts/install-mpi.mjs installs, whose MPICH has MPI 5's standard interface. No assertions here.
 */
import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { DIST } from './support.js'

/** An MPI of this machine. */
export interface Mpi {
  name: string
  mpirun: string
  isOpenMpi: boolean
  /** A Python that has mpi4py. */
  python?: string
}

const toolchain = fileURLToPath(new URL('../scripts/toolchain', import.meta.url))
const KNOWN: readonly Mpi[] = [
  { name: "Debian's Open MPI", mpirun: '/usr/bin/mpirun.openmpi', isOpenMpi: true },
  { name: "Debian's MPICH", mpirun: '/usr/bin/mpirun.mpich', isOpenMpi: false },
  ...['openmpi', 'mpich'].map((name) => ({
    name: `PyPI's ${name}`,
    mpirun: join(toolchain, name, 'bin/mpirun'),
    isOpenMpi: name === 'openmpi',
    python: join(toolchain, name, 'bin/python'),
  })),
]

/** Those that are installed. */
export const MPIS: readonly Mpi[] = KNOWN.filter(({ mpirun }) => existsSync(mpirun))
for (const { name, mpirun } of KNOWN.filter((mpi) => !MPIS.includes(mpi))) {
  const how = mpirun.startsWith('/usr') ? 'apt install openmpi-bin mpich' : 'node scripts/install-mpi.mjs'
  console.log(`${name} left out, as it is not installed: ${how}`)
}

/** What a program may use besides `communicator`: `tell(value)`, `told(promise)` for the code and message of an error. */
const PRELUDE = `
  const mpiUrl = ${JSON.stringify(new URL('./distributed/mpi/index.mjs', DIST).href)}
  const { mpiCommunicator } = await import(mpiUrl)
  const { findLibrary } = await import(${JSON.stringify(new URL('./distributed/mpi/libraries.mjs', DIST).href)})
  const addonUrl = ${JSON.stringify(new URL('./backends/cpu/index.mjs', DIST).href)}
  const { loadNative } = await import(addonUrl)
  const { appendFileSync } = await import('node:fs')
  const tell = (value) =>
    appendFileSync(process.env.FPL_TOLD, 'told ' + JSON.stringify({ rank: communicator.rank, value }) + '\\n')
  const told = (promise) => promise.then(() => 'fine', ({ code, message }) => code + ': ' + message)
`

/** How a job went. */
export interface Ended {
  /** The exit code of `mpirun`. */
  status: number
  /** What each rank passed to `tell`, the calls of a rank in their order. */
  values: unknown[][]
  stderr: string
}

/** A program of some ranks. */
export interface Program {
  size: number
  javaScript: string
  /** How it gets its communicator. */
  open?: string | undefined
  environment?: Record<string, string>
  /** Of mpirun. */
  options?: readonly string[]
  /** One more rank, the last. */
  python?: string
}

/** Runs a program under `mpirun`; the programs of a job that does not end are killed after 60 s. */
export async function runRanks(mpi: Mpi, program: Program): Promise<Ended> {
  const { size, javaScript, open = 'await mpiCommunicator()', environment, options = [], python } = program
  return inFolder(async (folder) => {
    const file = join(folder, 'program.mjs')
    writeFileSync(file, `${PRELUDE}\nconst communicator = ${open}\n${javaScript}`)
    const ranks = ['-n', `${size}`, process.execPath, '--expose-gc', file]
    if (python !== undefined) {
      writeFileSync(join(folder, 'program.py'), python)
      ranks.push(':', '-n', '1', mpi.python!, join(folder, 'program.py'))
    }
    // Ranks may be more than cores, in CI root starts them, and no rank should stay on a core that another one uses.
    const free = mpi.isOpenMpi ? ['--oversubscribe', '--bind-to', 'none'] : []
    return run(folder, mpi.mpirun, [...free, ...options, ...ranks], {
      OMPI_ALLOW_RUN_AS_ROOT: '1',
      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
      ...environment,
      PATH: `${dirname(mpi.mpirun)}:${process.env.PATH}`,
    })
  })
}

/** Runs a program without `mpirun`. */
export async function runAlone(
  javaScript: string,
  environment: Record<string, string>,
  open = 'await mpiCommunicator()',
): Promise<Ended> {
  const program = `${PRELUDE}\nconst communicator = ${open}\n${javaScript}`
  return inFolder((folder) => run(folder, process.execPath, ['--input-type=module', '-e', program], environment))
}

async function inFolder(work: (folder: string) => Promise<Ended>): Promise<Ended> {
  const folder = mkdtempSync(join(tmpdir(), 'fpl-mpi-'))
  try {
    return await work(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * A library that is that of an MPI but for these functions, written in C; its path. It is in `folder`.
 */
export async function changedLibrary(mpi: Mpi, folder: string, functions: string): Promise<string> {
  const { values } = await runAlone('tell(communicator.library)', { PATH: dirname(mpi.mpirun) })
  const library = String(values[0][0])
  const linked = library.includes('/') ? [library, `-Wl,-rpath,${dirname(library)}`] : [`-l:${library}`]
  const path = join(folder, 'changed.so')
  writeFileSync(join(folder, 'changed.c'), functions)
  const flags = ['-shared', '-fPIC', '-Wl,--no-as-needed', '-o', path, join(folder, 'changed.c')]
  execFileSync('cc', [...flags, ...linked])
  return path
}

function run(folder: string, command: string, args: string[], environment: Record<string, string>): Promise<Ended> {
  // What ranks tell goes past mpirun, which may cut long lines of one rank for those of another.
  const told = join(folder, 'told')
  writeFileSync(told, '')
  return new Promise((resolve) => {
    const env = { ...process.env, ...environment, FPL_TOLD: told }
    const child = execFile(command, args, { env, timeout: 60_000, maxBuffer: 2 ** 26 }, (_error, stdout, stderr) => {
      resolve({ status: child.exitCode ?? -1, values: valuesOf(stdout + readFileSync(told, 'utf8')), stderr })
    })
  })
}

function valuesOf(lines: string): unknown[][] {
  const values: unknown[][] = []
  for (const [, line] of lines.matchAll(/^told (.*)$/gm)) {
    const { rank, value } = JSON.parse(line)
    values[rank] ??= []
    values[rank].push(value)
  }
  return values
}
