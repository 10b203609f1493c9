/**
 * Where and how a call runs: the options all functions share, and the run itself.
 */

import { streamOf } from '../backends/cuda/addresses.js'
import { addressOfRanks, isNcclRanks } from '../backends/cuda/ranks.js'
import { type DeviceRange, isDeviceMemory } from '../backends/device-memory.js'
import { pickBackend } from '../backends/registry.js'
import { gpuDevice as gpuDeviceOption } from '../backends/webgpu/memory.js'
import { checkUnchanged, type NamedArray, type Watched } from '../check/arrays.js'
import { integer, oneOf } from '../check/options.js'
import { invalidType, invalidValue } from '../errors.js'
import type { Backend, Job, RunSettings } from '../job.js'
import type { InstructionSet, NcclRanks, RunOptions, ShardOptions } from '../types/index.js'

/** The names of {@link RunOptions}. */
export const RUN_OPTIONS = ['backend', 'threads', 'instructionSet', 'stream', 'device', 'gpuDevice', 'signal'] as const

const BACKENDS = ['auto', 'cuda', 'webgpu', 'cpu', 'wasm', 'js'] as const
const INSTRUCTION_SETS: readonly InstructionSet[] = ['baseline', 'avx2', 'avx512', 'avx512bf16', 'neon']
const MOST_THREADS = 1024
const NO_ARRAYS: readonly Watched[] = []
const NONE = () => []
const MOST_DEVICES = 1023
const COMMUNICATOR = 'options.communicator'

/** A backend and its settings besides the job. */
export interface Runner {
  backend: Backend
  settings: RunSettings
}

/** A call that has been checked. */
export interface Planned<Result> {
  job: Job
  runner: Runner
  /** The caller's arrays in host memory that the call uses in place. */
  watched: readonly Watched[]
  /** Makes the caller's result from the job once it has run. */
  result(): Result
}

/** Runs a call off the calling thread; an error about the caller's arrays takes precedence over any other error. */
export async function run<Result>({ job, runner, watched, result }: Planned<Result>): Promise<Result> {
  try {
    await runner.backend.run(job, runner.settings)
  } finally {
    checkUnchanged(watched)
  }
  return result()
}

/** Runs a call on the calling thread. */
export function runSync<Result>({ job, runner, result }: Planned<Result>): Result {
  runner.backend.runSync(job, runner.settings)
  return result()
}

/**
 * Checks the options and picks the backend. Throws the signal's reason when it is aborted already, and refuses arrays
 * that have changed since they were checked. `memory`: where the logits lie, when they are in device memory; `arrays`:
 * the caller's, of which the backend keeps those in device memory; `watched`: those that are used in place.
 */
export function runnerOf(
  options: RunOptions & Pick<ShardOptions, 'communicator'>,
  memory?: DeviceRange,
  arrays: () => readonly NamedArray[] = NONE,
  watched: readonly Watched[] = NO_ARRAYS,
): Runner {
  const { threads, instructionSet, stream, device, gpuDevice, signal } = options
  const ranks = isNcclRanks(options.communicator) ? options.communicator : undefined
  const name = oneOf(options.backend, 'options.backend', BACKENDS, 'auto')
  const settings: RunSettings = {
    threads: threads === undefined ? 0 : integer(threads, 'options.threads', 1, MOST_THREADS),
  }
  if (instructionSet !== undefined) {
    settings.instructionSet = oneOf(instructionSet, 'options.instructionSet', INSTRUCTION_SETS, 'baseline')
  }
  if (signal !== undefined) settings.signal = checkedSignal(signal)
  if (stream !== undefined) streamOf(stream)
  const backend = pickBackend(name, memory?.kind, settings.instructionSet)
  if (backend.name === 'cuda') {
    const own = memory?.kind === 'cuda' ? memory.device : undefined
    const implied = own ?? ranks?.device ?? 0
    settings.device = device === undefined ? implied : integer(device, 'options.device', 0, MOST_DEVICES)
    if (memory && own !== undefined && settings.device !== own) {
      throw invalidValue('options.device', `is ${settings.device}, but the logits are on device ${own}`)
    }
    if (stream !== undefined) settings.stream = streamOf(stream, settings.device)
    if (ranks) settings.communicator = communicatorOn(ranks, settings.device)
    settings.needs = [stream, ranks, ...deviceMemoryIn(arrays())]
  } else {
    if (stream !== undefined) throw forCuda('options.stream', backend)
    if (device !== undefined) throw forCuda('options.device', backend)
    if (ranks) throw forCuda(`${COMMUNICATOR}, which is NCCL's,`, backend)
  }
  if (backend.name === 'webgpu') settings.gpuDevice = gpuDeviceOption(gpuDevice)
  else if (gpuDevice !== undefined) throw isFor('webgpu', 'options.gpuDevice', backend)
  signal?.throwIfAborted()
  checkUnchanged(watched)
  return { backend, settings }
}

function communicatorOn(ranks: NcclRanks, device: number): bigint {
  if (ranks.device !== device) {
    throw invalidValue(COMMUNICATOR, `is on device ${ranks.device}, but the call runs on device ${device}`)
  }
  return addressOfRanks(ranks)
}

/** The runner of a later call that uses the arrays of a call again, and these. The call's signal has no say in it. */
export function laterRunner({ backend, settings }: Runner, arrays: readonly NamedArray[]): Runner {
  const later: RunSettings = { ...settings, signal: undefined }
  if (settings.needs) later.needs = [...settings.needs, ...deviceMemoryIn(arrays)]
  return { backend, settings: later }
}

function deviceMemoryIn(arrays: readonly NamedArray[]): unknown[] {
  return arrays.map(([, array]) => array).filter(isDeviceMemory)
}

function forCuda(name: string, backend: Backend) {
  return isFor('cuda', name, backend)
}

function isFor(wanted: string, name: string, { name: backend }: Backend) {
  return invalidValue(name, `is for the ${wanted} backend; this call runs on '${backend}'`)
}

/** Refuses what is no signal. Checked by shape, because signals of polyfills and other realms work as well. */
export function checkedSignal(value: unknown): AbortSignal {
  const { aborted, throwIfAborted, addEventListener } = Object(value) as Partial<AbortSignal>
  const isSignal =
    typeof aborted === 'boolean' && typeof throwIfAborted === 'function' && typeof addEventListener === 'function'
  if (!isSignal) throw invalidType('options.signal', 'an AbortSignal', value)
  return value as AbortSignal
}
