/**
 * Fresh processes with the cuda backend on the host, whose runtime can be told to fail and reports faults that a GPU
 * may hide. No assertions here.
 */
import { spawnSync } from 'node:child_process'
import { DIST } from './support.js'

/** Calls of 4 sequences of 3 tokens, whose arrays are in device memory; and helpers for the tests of lifetimes. */
const PRELUDE = `
  const fpl = await import(${JSON.stringify(DIST.href)})
  const cudaUrl = ${JSON.stringify(new URL('./cuda/index.mjs', DIST).href)}
  const cuda = await import(cudaUrl)
  const { fusedPreferenceLossSync, getBackends, sequenceLogProbsSync, linearSequenceLogProbsSync } = fpl
  const { DeviceBuffer, Event, Stream, prepareFusedPreferenceLoss } = cuda
  const thrown = (call) => { try { call() } catch (e) { return { code: e.code, name: e.name, message: e.message } } }
  const rejected = (promise) => promise.then(() => undefined, ({ code, message }) => ({ code, message }))
  const tell = (value) => console.log(JSON.stringify(value))

  const [B, T, V, D] = [4, 3, 1027, 5]
  const shape = [B, T, V]
  const fill = (length, scale, seed) => Float32Array.from({ length }, (_, i) => scale * Math.sin(i * seed + i * i))
  const host = {
    logits: fill(B * T * V, 4, 1.1),
    reference: fill(B * T * V, 4, 2.3),
    labels: Int32Array.from({ length: B * T }, (_, i) => (i * 7919) % V),
    mask: Uint8Array.from({ length: B * T }, (_, i) => i % 5 === 1 ? 0 : 1),
    hidden: fill(B * T * D, 1, 0.7),
    weight: fill(V * D, 1, 1.9),
    bias: fill(V, 1, 2.9),
  }
  const there = (array) => DeviceBuffer.from(array)
  // Everything that may be collected is, what is to be given back is, and others have taken its place.
  const collected = async (isEnough = () => false) => {
    for (let i = 0; i < 6 && !isEnough(); i++) {
      gc()
      await new Promise((resolve) => setTimeout(resolve, 15))
    }
  }
  // Bytes of the device that are in use.
  const taken = () => {
    const [, free, all] = /\\((\\d+) of (\\d+) are free/.exec(thrown(() => new DeviceBuffer(2 ** 47)).message)
    return all - free
  }
  const read = (buffer, like) => { const copy = new like.constructor(like.length); buffer.copyTo(copy); return copy }
  const same = (a, b) => Buffer.from(a.buffer).equals(Buffer.from(b.buffer))
`

/**
 * Runs a program that may use the names of PRELUDE, and returns the value it passes to \`tell\`. Throws when it fails.
 */
export function cudaProcess(program: string, environment: Record<string, string> = {}): unknown {
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    ['--expose-gc', '--input-type=module', '-e', PRELUDE + program],
    { encoding: 'utf8', env: { ...process.env, ...environment } },
  )
  if (status !== 0) throw new Error(`exit ${status} ${signal}: ${stderr}`)
  return JSON.parse(stdout)
}
