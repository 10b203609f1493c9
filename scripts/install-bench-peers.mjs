/**
 * `npm run bench:peers`: installs the peers of the benchmark that are Python packages, PyTorch, TRL and JAX, from PyPI into
 * bench/peers/python, where `npm run bench` finds them. Some gigabytes on Linux, as PyTorch brings CUDA along.
 */
import { fileURLToPath } from 'node:url'
import { installPackages } from './python-packages.mjs'

const inPeers = (/** @type {string} */ name) => fileURLToPath(new URL(`../bench/peers/${name}`, import.meta.url))
console.log(installPackages(inPeers('python'), inPeers('python.txt')))
