/**
 * `npm run bench -- --backend cuda`: the full step and the forward pass on logits in device memory, against a copy of
 * the same bytes measured in the same run, and against PyTorch and the fused kernels that python3 can import.
 *
 * Times are of device events around several enqueued calls (time.mjs); ours of less than a tenth of a millisecond are
 * also timed in a graph of many. Inputs are random normal; those of several calls, which take turns, are some times the
 * second-level cache.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fusedPreferenceLossSync } from 'fused-preference-loss'
import { DeviceBuffer, getDevices, prepareFusedPreferenceLoss, Stream } from 'fused-preference-loss/cuda'
import { setsBeyond, timeCalls } from './time.mjs'

const VOCABULARIES = [32000, 50257, 128256, 151936]
export const REFERENCE = { chosen: [-100, -110, -90, -80], rejected: [-105, -100, -95, -85] }
const SEQUENCES = 8
export const BYTES = { float32: 4, bfloat16: 2, float16: 2 }

/**
 * @typedef {object} Case
 * @property {string} name
 * @property {'float32' | 'bfloat16' | 'float16'} dtype
 * @property {number} rows
 * @property {number} vocab
 * @property {number} masked share of the rows that predict nothing
 */

/** @returns {Case[]} */
function cases(
  /** @type {{ quick: boolean, dtypes: readonly string[], megabytes: number }} */ { quick, dtypes, megabytes },
) {
  const list = []
  for (const dtype of /** @type {const} */ (['bfloat16', 'float32', 'float16'])) {
    if (dtypes.length > 0 && !dtypes.includes(dtype)) continue
    for (const vocab of VOCABULARIES) {
      const fitting = Math.floor((megabytes * 2 ** 20) / (vocab * BYTES[dtype]) / SEQUENCES) * SEQUENCES
      const many = Math.max(SEQUENCES, Math.min(8192, fitting))
      for (const [rows, masked] of [
        [many, 0],
        [many, 0.5],
        [many, 0.9],
        [64, 0],
      ]) {
        if (masked === 0 && rows > many) continue
        // Cases that would only repeat the others.
        if (dtype === 'float16' && (vocab !== 128256 || masked > 0)) continue
        if (quick && (vocab !== 128256 || dtype === 'float16')) continue
        const name = `${dtype}-v${vocab}-rows${rows}${masked ? `-masked${masked * 100}` : ''}`
        list.push({ name, dtype, rows, vocab, masked })
      }
    }
  }
  return list
}

/** Device memory full of random normal logits: one random block, copied side by side. */
export function randomLogits(
  /** @type {Pick<Case, 'dtype' | 'rows' | 'vocab'>} */ { dtype, rows, vocab },
  deviation = 2,
) {
  const block = new Float32Array(8_388_593) // a prime, so that no two rows are alike
  let seed = 88172645463325252n
  const next = () => {
    seed ^= (seed << 13n) & 0xffffffffffffffffn
    seed ^= seed >> 7n
    seed ^= (seed << 17n) & 0xffffffffffffffffn
    return Number(seed >> 11n) / 2 ** 53
  }
  const pool = Float32Array.from(
    { length: 65537 },
    () => Math.sqrt(-2 * Math.log(next() + 1e-300)) * Math.cos(2 * Math.PI * next()),
  )
  for (let i = 0; i < block.length; i++) block[i] = deviation * pool[(i * 40503) % 65537]
  const bits = new Uint32Array(block.buffer)
  const elements =
    dtype === 'float32'
      ? block
      : Uint16Array.from(bits, (_, i) => (dtype === 'bfloat16' ? bits[i] >>> 16 : toHalf(block[i])))
  const buffer = new DeviceBuffer(rows * vocab * BYTES[dtype])
  for (let at = 0; at < buffer.byteLength; at += elements.byteLength) {
    const left = Math.min(elements.length, (buffer.byteLength - at) / BYTES[dtype])
    buffer.copyFrom(elements.subarray(0, left), { byteOffset: at })
  }
  return buffer
}

/** Bits of a float16 near `x`, whose float16 is a normal number here. */
function toHalf(/** @type {number} */ x) {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]
  const exponent = ((bits >>> 23) & 255) - 112
  return exponent <= 0 ? 0 : ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 1023)
}

/** Device memory with the same bytes as `from`. */
function copyOf(/** @type {DeviceBuffer} */ from) {
  const copy = new DeviceBuffer(from.byteLength)
  copy.copyFrom(from)
  return copy
}

/** Gigabytes a second that a copy on the device reads and writes, together. */
function copyBandwidth(
  /** @type {Stream} */ stream,
  /** @type {{ logits: DeviceBuffer, out: DeviceBuffer }[]} */ sets,
) {
  const copies = sets.map(
    ({ logits, out }) =>
      () =>
        out.copyFrom(logits, { stream }),
  )
  return (2 * sets[0].out.byteLength) / timeCalls(stream, copies).ms / 1e6
}

/** Logits that calls in place take: enough of them for a round of calls. */
const LEAST_IN_PLACE = 4

/** Shorter calls are timed in a graph, too. */
const SHORT_MS = 0.1

function measure(/** @type {Case} */ one, /** @type {Stream} */ stream, /** @type {number} */ l2Cache) {
  const { dtype, rows, vocab, masked } = one
  const logitsBytes = rows * vocab * BYTES[dtype]
  const first = randomLogits(one)
  const turns = setsBeyond(l2Cache, logitsBytes)
  const sets = Array.from({ length: turns }, (_, i) => {
    return { logits: i === 0 ? first : copyOf(first), out: new DeviceBuffer(logitsBytes) }
  })
  // The prompt comes first in every sequence, as in real data.
  const length = rows / SEQUENCES
  const labels = Int32Array.from({ length: rows }, (_, i) =>
    i % length < masked * length ? -100 : (i * 2654435761) % vocab,
  )
  // The smallest shapes may have no active token.
  const options = /** @type {const} */ ({ shift: false, reference: REFERENCE, stream, emptySequence: 'zero' })
  const bandwidth = copyBandwidth(stream, sets)
  const active = labels.filter((label) => label >= 0).length / rows
  const floor = (/** @type {number} */ transfers) => (transfers * active * logitsBytes) / bandwidth / 1e6
  /** @type {Record<string, any>[]} */
  const results = []
  const add = (
    /** @type {string} */ stage,
    /** @type {number} */ transfers,
    /** @type {[DeviceBuffer, DeviceBuffer | boolean | 'in-place'][]} */ given,
    /** @type {(() => void) | undefined} */ before = undefined,
  ) => {
    // Masked rows are zero already, or nobody reads them.
    const prepared = given.map(([data, gradient]) => {
      const logits = { data, dtype, shape: [SEQUENCES, length, vocab] }
      return prepareFusedPreferenceLoss(logits, labels, { ...options, gradient, zeroInactive: false })
    })
    const calls = prepared.map((each) => () => each.enqueue(stream))
    const { workspaceBytes } = prepared[0]
    const tell = (/** @type {string} */ name, /** @type {{ ms: number, p20: number, p80: number }} */ took) =>
      results.push({
        case: one.name,
        stage: name,
        peer: 'ours',
        ...took,
        share: floor(transfers) / took.ms,
        workspaceBytes,
      })
    const took = timeCalls(stream, calls, { before })
    tell(stage, took)
    if (took.ms < SHORT_MS && !before) tell(`${stage} in a graph`, timeCalls(stream, calls, { inGraph: true }))
    for (const each of prepared) each.dispose()
  }
  add(
    'forward',
    1,
    sets.map(({ logits }) => [logits, false]),
  )
  add(
    'step',
    3,
    sets.map(({ logits, out }) => [logits, out]),
  )
  for (const { out } of sets) out.dispose()
  // A gradient that is taken for logits would be another problem: they come back before each round.
  const inPlace = sets.map(({ logits }) => logits)
  while (inPlace.length < LEAST_IN_PLACE) inPlace.push(copyOf(first))
  const untouched = copyOf(first)
  add(
    'in-place',
    3,
    inPlace.map((logits) => [logits, 'in-place']),
    () => {
      for (const logits of inPlace) logits.copyFrom(untouched, { stream })
    },
  )
  for (const buffer of [untouched, ...inPlace]) buffer.dispose()
  return { bandwidth, logitsBytes, turns, results }
}

/** Loss and gradient of a small problem, against which the peers are checked. */
function agreementProblem() {
  const [batch, length, vocab] = [8, 5, 203]
  const data = Float32Array.from({ length: batch * length * vocab }, (_, i) => 3 * Math.sin(i * i))
  const labels = Int32Array.from({ length: batch * length }, (_, i) => (i % length < 2 ? -100 : (i * 37) % vocab))
  const options = { shift: false, reference: REFERENCE, gradient: true }
  const logits = { data, shape: [batch, length, vocab] }
  const { loss, gradLogits } = fusedPreferenceLossSync(logits, labels, { ...options, backend: 'cuda' })
  return {
    shape: logits.shape,
    logits: [...data],
    labels: [...labels],
    loss,
    gradient: Array.from(
      /** @type {Float32Array} */ (/** @type {import('fused-preference-loss').Logits} */ (gradLogits).data),
    ),
  }
}

/** The measurements of python3, or its error output. */
function peers(/** @type {(Case & { turns: number })[]} */ list) {
  const script = fileURLToPath(new URL('peers.py', import.meta.url))
  const input = JSON.stringify({ cases: list, agreement: agreementProblem(), reference: REFERENCE })
  const { status, stdout, stderr, error } = spawnSync('python3', [script], {
    input,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  const lines = (stdout ?? '').split('\n').filter((line) => line.startsWith('{'))
  const said = lines.map((line) => JSON.parse(line))
  if (status !== 0) said.push({ peer: 'python3', skipped: error?.message ?? stderr.trim().split('\n').at(-1) })
  return said
}

function table(/** @type {any[]} */ results) {
  const ours = new Map(results.filter((r) => r.peer === 'ours').map((r) => [`${r.case} ${r.stage}`, r.ms]))
  return results.map((r) => {
    const name = `${r.case ?? ''} ${r.stage ?? ''}`.padEnd(44)
    if (r.skipped) return `${name} ${r.peer.padEnd(22)} skipped: ${r.skipped}`
    const ratio = r.ms / (ours.get(`${r.case} ${r.stage}`) ?? Number.NaN)
    const share = r.share ? `${(100 * r.share).toFixed(1)} % of the copy` : `${ratio.toFixed(2)} × ours`
    const memory = r.peakBytes ? `, peak ${(r.peakBytes / 1e6).toFixed(0)} MB beyond the logits` : ''
    return `${name} ${r.peer.padEnd(22)} ${r.ms.toFixed(3).padStart(9)} ms   ${share}${memory}`
  })
}

/** Logits of the largest case: [8, 1024, 151936] in float32. */
const MEGABYTES = 4800

/** @param {{ quick: boolean, dtype: readonly string[], case: readonly string[], peer: readonly string[], json: string, megabytes?: string }} values */
export function benchCuda(values) {
  const megabytes = Number(values.megabytes ?? MEGABYTES)
  const chosen = cases({ quick: values.quick, dtypes: values.dtype, megabytes }).filter(
    ({ name }) => values.case.length === 0 || values.case.some((part) => name.includes(part)),
  )
  const stream = new Stream()
  const [device] = getDevices()
  console.log(`${device.name}, compute capability ${device.computeCapability}, ${device.multiprocessors} SMs\n`)
  const measured = []
  for (const one of chosen) {
    const found = measure(one, stream, device.l2Cache)
    measured.push({ ...one, ...found })
    console.log(`${one.name}: copy ${(found.bandwidth / 1000).toFixed(2)} TB/s`)
    console.log(table(found.results).join('\n'))
  }
  const isAlone = values.peer.length > 0 && values.peer.every((name) => name === 'ours')
  const others = isAlone ? [] : peers(measured.filter(({ masked, dtype }) => masked <= 0.5 && dtype !== 'float16'))
  const all = [...measured.flatMap(({ results }) => results), ...others]
  if (others.length > 0) console.log(`\n${table(all).join('\n')}`)
  mkdirSync(dirname(values.json), { recursive: true })
  const report = { date: new Date().toISOString(), device, cases: measured, peers: others }
  writeFileSync(values.json, `${JSON.stringify(report, null, 1)}\n`)
}
