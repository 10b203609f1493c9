/**
 * Finds and compiles the WebAssembly modules: prebuilds/wasm/ of the package.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packageRoot } from '../package-root.js'
import { type Module, WebAssembly } from './webassembly.js'

const ALONE = 'fused-preference-loss.wasm'
const THREADS = 'fused-preference-loss.threads.wasm'

/** A function that takes a vector and gives it back: a module of an engine that has such vectors. */
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 123, 1, 123, 3, 2, 1, 0, 10, 6, 1, 4, 0, 32, 0, 11]

/** The module for one thread, or for threads that share its memory. Throws an error that says what is wrong. */
export function compile(threads: boolean): { module: Module; path: string } {
  if (WebAssembly === undefined) throw new Error('this engine has no WebAssembly')
  if (!WebAssembly.validate(Uint8Array.from(SIMD))) throw new Error('this engine has no WebAssembly SIMD')
  const path = pathOf(threads ? THREADS : ALONE)
  try {
    return { module: new WebAssembly.Module(readFileSync(path)), path }
  } catch (error) {
    throw new Error(`${path}: ${error instanceof Error ? error.message : error}`)
  }
}

function pathOf(name: string): string {
  const beside = join(fileURLToPath(new URL('../../../prebuilds/wasm', import.meta.url)), name)
  if (existsSync(beside)) return beside
  const root = packageRoot()
  const path = root === undefined ? beside : join(root, 'prebuilds/wasm', name)
  if (!existsSync(path)) throw new Error(`${path}: no such file`)
  return path
}
