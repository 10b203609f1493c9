/**
 * The cuda backend: opens the CUDA library beside the addon and hands it jobs.
 */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { failure } from '../../errors.js'
import type { Backend, Job, JobInParts, RunSettings } from '../../job.js'
import type { Backends, Device } from '../../types/index.js'
import type { CudaFunctions } from '../cpu/addon.js'
import { loadNative } from '../cpu/index.js'
import { JobArguments } from '../cpu/job-arguments.js'
import { untilAborted } from '../signals.js'
import { cudaCall, cudaPromise, withRoom } from './calls.js'
import { Holds } from './holds.js'

/** An id for work off the calling thread, by which it can be cancelled. */
export function nextId(): number {
  const native = loadNative()
  if ('reason' in native) throw failure('ERR_BACKEND_UNAVAILABLE', native.reason)
  return native.addon.nextId()
}

/** `kProductsOfTf32` of native/core/job.h. */
const PRODUCTS_OF_TF32 = -2

class CudaBackend implements Backend {
  readonly name = 'cuda'

  constructor(
    private readonly cuda: CudaFunctions,
    private readonly jobArguments: JobArguments,
  ) {}

  openProducts(): number {
    return PRODUCTS_OF_TF32
  }

  runSync(job: Job, settings: RunSettings): void {
    const holds = new Holds(settings.needs)
    try {
      withRoom(this.cuda, () => cudaCall(() => this.cuda.run(...this.jobArguments.of(job, settings))))
    } finally {
      holds.letGo(false)
    }
  }

  async run(job: Job, settings: RunSettings): Promise<void> {
    const { signal, needs = [] } = settings
    const holds = new Holds(needs)
    try {
      const id = nextId()
      const running = this.cuda.runAsync(id, ...this.jobArguments.of(job, settings), needs)
      await untilAborted(signal, cudaPromise(running), () => this.cuda.cancel(id))
    } finally {
      holds.letGo(false)
    }
  }

  inParts(job: Job, settings: RunSettings): JobInParts {
    const { cuda } = this
    const own = cuda.job(...this.jobArguments.of(job, settings))
    return {
      ready: {
        run: async () => void (await cudaPromise(cuda.readyAsync(nextId(), own))),
        runSync: () => withRoom(cuda, () => cudaCall(() => cuda.ready(own))),
      },
      rest: {
        run: async () => void (await cudaPromise(cuda.runReadyAsync(nextId(), own))),
        runSync: () => cudaCall(() => cuda.runReady(own)),
      },
      end: () => cuda.destroyPrepared(own),
    }
  }

  /** A job whose tensors are in device memory, ready to be enqueued again and again. */
  prepare(job: Job, settings: RunSettings): object {
    return withRoom(this.cuda, () => cudaCall(() => this.cuda.prepare(...this.jobArguments.of(job, settings))))
  }
}

/** The backend, its functions for device memory, and its description. */
export interface LoadedCuda {
  backend: CudaBackend
  functions: CudaFunctions
  info(): { devices: Device[]; path: string }
  /** Whether cuBLASLt is there. Opens it, which maps half a gigabyte. */
  cublasLt(): Backends['cuda']['cublasLt']
}

/** Environment variable with the path of the CUDA library, instead of the one beside the addon. */
const LIBRARY_VARIABLE = 'FUSED_PREFERENCE_LOSS_CUDA_LIBRARY'

let cuda: LoadedCuda | { reason: string } | undefined

/** The cuda backend, or the reason why it is missing. Looks once; never throws. */
export function loadCuda(): LoadedCuda | { reason: string } {
  cuda ??= find()
  return cuda
}

function cublasLtOf(functions: CudaFunctions): Backends['cuda']['cublasLt'] {
  const reason = functions.cublasLt()
  return reason === undefined ? { available: true } : { available: false, reason }
}

function find(): LoadedCuda | { reason: string } {
  try {
    const native = loadNative()
    if ('reason' in native) return { reason: `the native addon is missing: ${native.reason}` }
    const extension = process.platform === 'win32' ? 'dll' : 'so'
    const beside = join(dirname(native.info.path), `fused_preference_loss_cuda.${extension}`)
    const path = process.env[LIBRARY_VARIABLE] || beside
    if (!existsSync(path)) return { reason: `this build has no CUDA library (no ${path})` }
    const { addon } = native
    const functions = addon.cuda
    const reason = functions.open(path)
    if (reason !== undefined) return { reason }
    const backend = new CudaBackend(functions, new JobArguments(addon, 0, 1))
    const info = () => ({ devices: functions.devices(), path })
    return { backend, functions, info, cublasLt: () => cublasLtOf(functions) }
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) }
  }
}
