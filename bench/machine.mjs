/**
 * The facts on which a result depends besides the code: the machine, and the versions of the compared libraries.
 */
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { arch, cpus, platform, release, totalmem } from 'node:os'
import { getBackends } from 'fused-preference-loss'
import { versionOf } from './packages.mjs'
import { PYTHONS } from './peers/python.mjs'

const COMPARED = ['@tensorflow/tfjs', '@jax-js/jax', 'onnxruntime-node', 'onnxruntime-web']

/** @param {string} command @param {string[]} args */
function ask(command, args) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], timeout: 20000 }).trim()
  } catch {
    return undefined
  }
}

/** Bytes of the largest cache that a core can use; undefined where the system does not report it. */
function lastLevelCache() {
  if (platform() === 'darwin') return Number(ask('sysctl', ['-n', 'hw.l2cachesize'])) || undefined
  const folder = '/sys/devices/system/cpu/cpu0/cache'
  try {
    const sizes = readdirSync(folder)
      .filter((name) => name.startsWith('index'))
      .map((name) => readFileSync(`${folder}/${name}/size`, 'utf8').trim())
    return Math.max(...sizes.map((size) => Number.parseInt(size, 10) * (size.endsWith('M') ? 2 ** 20 : 2 ** 10)))
  } catch {
    return undefined
  }
}

export function describeMachine() {
  const { cpu } = getBackends()
  return {
    cpu: cpus()[0]?.model.trim() ?? arch(),
    arch: arch(),
    threads: cpu.threads ?? cpus().length,
    instructionSet: cpu.instructionSet,
    instructionSets: cpu.instructionSets ?? [],
    lastLevelCache: lastLevelCache(),
    memory: totalmem(),
    gpu: ask('nvidia-smi', ['--query-gpu=name', '--format=csv,noheader'])?.split('\n') ?? [],
    system: `${platform()} ${release()}`,
  }
}

/** The packages of Python that are compared, and what multiplies in PyTorch. XLA brings its own products. */
const IN_PYTHON = `
import importlib.metadata as metadata, json, re
found = {}
for name in ("torch", "trl", "jax", "scipy-openblas32"):
    try: found[name] = metadata.version(name)
    except metadata.PackageNotFoundError: pass
try:
    import torch
    built = torch.__config__.show()
    libraries = {"MKL": r"Math Kernel Library Version ([0-9.]+)", "oneDNN": r"MKL-DNN v([0-9.]+)", "OpenBLAS": r"OpenBLAS ([0-9.]+)"}
    versions = {name: re.search(pattern, built) for name, pattern in libraries.items()}
    found["torch's BLAS"] = " and ".join(f"{name} {match[1]}" for name, match in versions.items() if match)
except ImportError: pass
print(json.dumps(found))`

/** The versions that the first python with PyTorch has, else the first python's. */
function pythonVersions() {
  /** @type {Record<string, string>} */
  let first = {}
  for (const python of PYTHONS) {
    const text = ask(python, ['-c', IN_PYTHON])
    if (!text) continue
    const found = JSON.parse(text)
    if (found.torch) return found
    first = Object.keys(first).length > 0 ? first : found
  }
  return first
}

/** @param {boolean} withPython asking for its packages takes a second or two */
export async function describeVersions(withPython) {
  /** @type {Record<string, string>} */
  const versions = {
    'fused-preference-loss': /** @type {string} */ (await versionOf('fused-preference-loss')),
    node: process.versions.node,
  }
  for (const name of COMPARED) {
    const version = await versionOf(name)
    if (version) versions[name] = version
  }
  return withPython ? { ...versions, ...pythonVersions() } : versions
}
