// Starts an example on several processes by mpirun, or says what to install where there is none.
//
//   node examples/mpirun.mjs PROGRAM [--ranks 2] [OPTIONS OF THE PROGRAM]
import { spawn, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const [program, ...given] = process.argv.slice(2)
const place = given.indexOf('--ranks')
const ranks = place < 0 ? '2' : given.splice(place, 2)[1]
const { error, stdout } = spawnSync('mpirun', ['--version'], { encoding: 'utf8' })
if (error) {
  console.error(`this example runs on several processes and needs mpirun, which cannot be started (${error.message}).
Install Open MPI or MPICH: apt install openmpi-bin, or: apt install mpich, or: brew install open-mpi`)
  process.exit(1)
}
// Each rank gets a core of its own. Open MPI does so by itself, but wants to be told to start more ranks than there are
// cores, and as root, which containers run as, to be told twice that it is meant.
const isOpenMpi = /Open MPI|OpenRTE/.test(stdout)
const settings = isOpenMpi ? ['--oversubscribe'] : ['-bind-to', 'core']
const asRoot = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' }
const path = fileURLToPath(new URL(program, import.meta.url))
const child = spawn('mpirun', ['-n', ranks, ...settings, process.execPath, path, ...given], {
  stdio: 'inherit',
  env: { ...process.env, ...(process.getuid?.() === 0 && asRoot) },
})
child.on('exit', (code) => {
  process.exitCode = code ?? 1
})
