/**
 * What the tests need of Node.js. In Chromium platform.browser.ts takes the place of this file.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { runInNewContext } from 'node:vm'
import { vi } from 'vitest'

/** Whether this is a page, which has the backends wasm and js alone. */
export const IS_BROWSER = false

/** From which random calls are drawn; undefined for one of its own in every run. */
export const SEED = process.env.FPL_TEST_SEED === 'random' ? undefined : Number(process.env.FPL_TEST_SEED ?? 1)

/** Whether the tests of CUDA run on a GPU. */
export const TESTS_GPU = Boolean(process.env.FPL_TEST_GPU)

/** Whether the binary that ships is tested, in which wasm and js have no part: scripts/test-prebuilt.mjs. */
export const TESTS_SHIPPED = Boolean(process.env.PREBUILDS_ONLY)

/** Whether those on the host are carried out from their PTX: test/ptx.test.ts. */
export const TESTS_PTX = Boolean(process.env.FPL_HOST_PTX)

// Without one the kernels of the cuda backend run on the host.
const built = (name: string) => fileURLToPath(new URL(`../build/Release/${name}.so`, import.meta.url))
const HOST_EXECUTION = built('fused_preference_loss_host')
if (!TESTS_GPU && existsSync(HOST_EXECUTION)) {
  process.env.FUSED_PREFERENCE_LOSS_CUDA_LIBRARY ??= HOST_EXECUTION
  process.env.FUSED_PREFERENCE_LOSS_CUBLASLT ??= built('fused_preference_loss_host_cublaslt')
  process.env.FUSED_PREFERENCE_LOSS_NCCL ??= built('fused_preference_loss_host_nccl')
}

/** The text of a file, whose path is relative to this folder. */
export function textOf(path: string): Promise<string> {
  return readFile(new URL(path, import.meta.url), 'utf8')
}

/** The bytes of a file. */
export function bytesOf(path: string): Promise<Uint8Array> {
  return readFile(new URL(path, import.meta.url))
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}

export function hexOf({ buffer, byteOffset, byteLength }: Uint8Array): string {
  return Buffer.from(buffer, byteOffset, byteLength).toString('hex')
}

/** What a process of its own prints that runs this code as an ES module. */
export function runProgram(code: string, ...flags: string[]): Promise<{ stdout: string; stderr: string }> {
  return promisify(execFile)(process.execPath, [...flags, '--input-type=module', '--eval', code], { timeout: 50_000 })
}

/** The value of an expression in a realm of its own, which has these globals. */
export function inAnotherRealm(expression: string, globals: object = {}) {
  return runInNewContext(expression, globals)
}

/** A spy on the process's warnings, which are not emitted while it is there. */
export function spyOnWarnings() {
  return vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
}
