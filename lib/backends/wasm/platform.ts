/**
 * What the wasm backend needs of Node.js: the modules of the package, in prebuilds/wasm/, and worker threads.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { availableThreads } from '../available-threads.js'
import { packageRoot } from '../package-root.js'
import { type FoundModule, type ModuleName, sourceOf } from './modules.js'
import type { Platform } from './platform-type.js'
import { WebAssembly } from './webassembly.js'

export const platform: Platform = {
  threads: availableThreads(),
  sharesMemory: true,
  maySleep: true,

  findModule: (name) => moduleAt(pathOf(name)),

  async fetchModule(name, source) {
    if (source === undefined) return this.findModule(name)!
    const path = fileOf(source)
    return path === undefined ? sourceOf(source) : moduleAt(path)
  },

  startWorker(start, { message, error, exit }) {
    const worker = new Worker(new URL('./worker.mjs', import.meta.url), { execArgv: [] })
    worker.on('message', message)
    worker.on('error', error)
    worker.on('exit', exit)
    worker.unref()
    worker.postMessage(start)
    return {
      post: (job) => worker.postMessage(job),
      keepAlive: (truth) => (truth ? worker.ref() : worker.unref()),
      end: () => worker.terminate(),
    }
  },
}

function moduleAt(path: string): FoundModule {
  try {
    return { module: new WebAssembly.Module(readFileSync(path)), path }
  } catch (error) {
    throw new Error(`${path}: ${error instanceof Error ? error.message : error}`)
  }
}

function pathOf(name: ModuleName): string {
  const beside = join(fileURLToPath(new URL('../../../prebuilds/wasm', import.meta.url)), name)
  if (existsSync(beside)) return beside
  const root = packageRoot()
  const path = root === undefined ? beside : join(root, 'prebuilds/wasm', name)
  if (!existsSync(path)) throw new Error(`${path}: no such file`)
  return path
}

/** The path of a source that is a file. */
function fileOf(source: unknown): string | undefined {
  if (source instanceof URL) return source.protocol === 'file:' ? fileURLToPath(source) : undefined
  if (typeof source !== 'string' || /^(https?|data|blob):/.test(source)) return undefined
  return source.startsWith('file:') ? fileURLToPath(source) : source
}
