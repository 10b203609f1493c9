/**
 * What the tests need of a page.
 */
import { vi } from 'vitest'

export const IS_BROWSER = true

export const TESTS_GPU = false
export const TESTS_PTX = false
export const TESTS_SHIPPED = false

export const SEED = 1

async function fileAt(path: string) {
  const response = await fetch(new URL(/* @vite-ignore */ path, import.meta.url))
  if (!response.ok) throw new Error(`${path}: HTTP status ${response.status}`)
  return response
}

export async function textOf(path: string): Promise<string> {
  return (await fileAt(path)).text()
}

export async function bytesOf(path: string): Promise<Uint8Array> {
  return new Uint8Array(await (await fileAt(path)).arrayBuffer())
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

export function hexOf(bytes: Uint8Array): string {
  let text = ''
  for (let i = 0; i < bytes.length; i++) text += HEX[bytes[i]]
  return text
}

export function runProgram(): never {
  throw new Error('a page runs no programs')
}

export function inAnotherRealm(expression: string, globals: object = {}) {
  const frame = document.createElement('iframe')
  document.body.append(frame)
  Object.assign(frame.contentWindow, globals)
  return frame.contentWindow.eval(expression)
}

/** The spy's process is all that a page has: it shows the codes of warnings, which the console does not. */
export function spyOnWarnings() {
  const host = { emitWarning() {} }
  vi.stubGlobal('process', host)
  return vi.spyOn(host, 'emitWarning')
}

// What is used of the page; types come from Node.js.
// biome-ignore lint/suspicious/noExplicitAny: no types of the page
declare const document: any
