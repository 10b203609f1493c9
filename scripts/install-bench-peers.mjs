/**
 * `npm run bench:peers`: installs the peers of the benchmark that tests do not need, where `npm run bench` finds them:
 * onnxruntime-web, from npm into bench/peers/web, and the Python packages PyTorch, TRL, JAX and OpenBLAS, from PyPI into
 * bench/peers/python. Some gigabytes on Linux, as PyTorch brings CUDA along; `-- --web` leaves those in Python out.
 */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { installPackages } from './python-packages.mjs'

const inPeers = (/** @type {string} */ name) => fileURLToPath(new URL(`../bench/peers/${name}`, import.meta.url))

/** @type {import('node:child_process').ExecFileSyncOptions} */
const options = { cwd: inPeers('web'), stdio: ['ignore', 2, 2], shell: process.platform === 'win32' }
execFileSync('npm', ['ci', '--no-audit', '--no-fund', '--ignore-scripts'], options)
console.log(inPeers('web/node_modules'))
if (!process.argv.includes('--web')) console.log(installPackages(inPeers('python'), inPeers('python.txt')))
