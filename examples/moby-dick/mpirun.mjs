// The demo in two processes, or as many as --ranks says: starts mpirun, and says what to install where there is none.
//
//   node examples/moby-dick/mpirun.mjs [--ranks 2] [--update-docs | --check-docs]
import { spawn, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values, tokens } = parseArgs({
  options: {
    ranks: { type: 'string', default: '2' },
    'update-docs': { type: 'boolean' },
    'check-docs': { type: 'boolean' },
  },
  tokens: true,
})
const flags = tokens.flatMap((token) => (token.kind === 'option' && token.name !== 'ranks' ? [token.rawName] : []))
const { error, stdout } = spawnSync('mpirun', ['--version'], { encoding: 'utf8' })
if (error) {
  console.error(`the demo on several processes needs mpirun, which cannot be started (${error.message}). Install Open MPI or MPICH:
  apt install openmpi-bin, or: apt install mpich
  brew install open-mpi, or: brew install mpich`)
  process.exit(1)
}
// Each rank has a core of its own; Open MPI gives them out by itself, but no more ranks than there are cores.
const isOpenMpi = /Open MPI|OpenRTE/.test(stdout)
const settings = isOpenMpi ? ['--oversubscribe'] : ['-bind-to', 'core']
// As root, which containers run as, Open MPI wants to be told twice.
const asRoot = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' }
const program = fileURLToPath(new URL('data-parallel.mjs', import.meta.url))
const child = spawn('mpirun', ['-n', values.ranks, ...settings, process.execPath, program, ...flags], {
  stdio: 'inherit',
  env: { ...process.env, ...(process.getuid?.() === 0 && asRoot) },
})
child.on('exit', (code, signal) => {
  process.exitCode = signal ? 1 : (code ?? 1)
})
