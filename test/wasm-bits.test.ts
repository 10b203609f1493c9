/**
 * The bits of the wasm backend are the same in every engine, on any number of threads, from promises and Sync calls: those
 * of golden/wasm-bits.json, which `npx vitest run test/wasm-bits.test.ts -u` writes.
 */
import { afterAll, describe, expect, test } from 'vitest'
import { close } from '../lib/index.js'
import { DTYPES, hex, WASM } from './support.js'
import { CALLS, type Call, LAYERS, numbersOf, resultOf, resultSync } from './wasm-calls.js'

const NAN = 0x7ff8000000000000n

/** The SHA-256 of all numbers of a result. Engines are free in the bits of NaN: here it has one form. */
async function hashOf(result: object): Promise<string> {
  const parts = numbersOf(result).map(([, numbers]) => {
    const values = Float64Array.from(numbers)
    const bits = new BigUint64Array(values.buffer)
    for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i])) bits[i] = NAN
    return values
  })
  const hash = await crypto.subtle.digest('SHA-256', await new Blob(parts).arrayBuffer())
  return hex(new Uint8Array(hash))
}

/** Logits of every style and format, enough for workers to take part. */
const SPECS = DTYPES.flatMap((dtype) => (['model', 'bits'] as const).map((style) => ({ dtype, style, vocab: 3001 })))

describe.each(WASM)('$name', ({ run }) => {
  afterAll(close)

  test('has these bits', async () => {
    const hashes: Record<string, string> = {}
    const compare = async (name: string, call: Call, spec?: (typeof SPECS)[number]) => {
      hashes[name] = await hashOf(resultSync(call, { ...run, threads: 1 }, spec))
      for (const threads of [1, 2, 3]) {
        expect(await hashOf(await resultOf(call, { ...run, threads }, spec)), `${name}, ${threads}`).toBe(hashes[name])
        expect(await hashOf(resultSync(call, { ...run, threads }, spec)), `${name}, ${threads}`).toBe(hashes[name])
      }
    }
    for (const call of CALLS) {
      for (const spec of SPECS) await compare(`${call.title}, ${spec.dtype} ${spec.style}`, call, spec)
    }
    for (const call of LAYERS) await compare(call.title, call)
    await expect(`${JSON.stringify(hashes, null, 2)}\n`).toMatchFileSnapshot('golden/wasm-bits.json')
  })
})

// A file must have a test.
if (WASM.length === 0) test.skip('there is no WebAssembly module: npm run build:wasm builds it', () => {})
