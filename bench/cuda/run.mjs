/**
 * `npm run bench -- --backend cuda`: the full step and the forward pass on logits in device memory, against a copy of
 * the same bytes measured in the same run, and against PyTorch and the fused kernels that python3 can import.
 *
 * Times are of device events around several enqueued calls (time.mjs); ours of less than a tenth of a millisecond are
 * also timed in a graph of many. Inputs are random normal; those of several calls, which take turns, are some times the
 * second-level cache.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fusedPreferenceLossSync } from 'fused-preference-loss'
import {
  DeviceBuffer,
  getDevices,
  prepareCrossEntropy,
  prepareFusedPreferenceLoss,
  Stream,
} from 'fused-preference-loss/cuda'
import { toldByPeers } from './peers.mjs'
import { setsBeyond, timeCalls } from './time.mjs'

/** The one of the predictions first, if time is short. */
const VOCABULARIES = [128256, 32000, 50257, 151936]
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

/**
 * Labels of sequences of `length` rows each. The prompt, the share `masked` of them, comes first, as in real data.
 * @param {{ rows: number, vocab: number, masked?: number }} one
 */
export function labelsFor({ rows, vocab, masked = 0 }, length = rows) {
  return Int32Array.from({ length: rows }, (_, i) => (i % length < masked * length ? -100 : (i * 2654435761) % vocab))
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
  inGraph = false,
) {
  const copies = sets.map(
    ({ logits, out }) =>
      () =>
        out.copyFrom(logits, { stream }),
  )
  return (2 * sets[0].out.byteLength) / timeCalls(stream, copies, { inGraph }).ms / 1e6
}

/** Logits that calls in place take: enough of them for a round of calls. */
const LEAST_IN_PLACE = 4

/** Shorter calls are timed in a graph, too. */
const SHORT_MS = 0.1

/**
 * What a case has come to. `bandwidth` is missing where there was no memory for it, and `bandwidthInGraph`, of copies in a
 * graph, where no call was timed in one.
 * @typedef {{ logitsBytes: number, turns: number, bandwidth?: number, bandwidthInGraph?: number, results: Record<string, any>[] }} Found
 */

/** @returns {Found} */
function measure(/** @type {Case} */ one, /** @type {Stream} */ stream, /** @type {number} */ l2Cache) {
  const logitsBytes = one.rows * one.vocab * BYTES[one.dtype]
  /** @type {Found} */
  const found = { logitsBytes, turns: setsBeyond(l2Cache, logitsBytes), results: [] }
  /** @type {{ dispose(): void }[]} */
  const held = []
  try {
    measureStages(one, stream, found, (made) => {
      held.push(made)
      return made
    })
  } catch (error) {
    const { message } = /** @type {Error} */ (error)
    if (!message.includes('cudaErrorMemoryAllocation')) throw error
    found.results.push({ case: one.name, peer: 'ours', skipped: message })
  }
  for (const each of held) each.dispose()
  return found
}

/**
 * Adds to what is found of a case, and stops where memory is out.
 * @param {Case} one
 * @param {Stream} stream
 * @param {Found} found
 * @param {<Made extends { dispose(): void }>(made: Made) => Made} hold what is disposed of at the end, at the latest
 */
function measureStages(one, stream, found, hold) {
  const { dtype, rows, vocab } = one
  const { logitsBytes, turns, results } = found
  const first = hold(randomLogits(one))
  const sets = Array.from({ length: turns }, (_, i) => {
    return { logits: i === 0 ? first : hold(copyOf(first)), out: hold(new DeviceBuffer(logitsBytes)) }
  })
  const length = rows / SEQUENCES
  const labels = labelsFor(one, length)
  // The smallest shapes may have no active token.
  const options = /** @type {const} */ ({ shift: false, reference: REFERENCE, stream, emptySequence: 'zero' })
  const bandwidth = copyBandwidth(stream, sets)
  found.bandwidth = bandwidth
  const active = labels.filter((label) => label >= 0).length / rows
  const add = (
    /** @type {string} */ stage,
    /** @type {number} */ transfers,
    /** @type {[DeviceBuffer, DeviceBuffer | boolean | 'in-place'][]} */ given,
    /** @type {{ before?: () => void, deferredScale?: boolean, ofTokens?: boolean }} */ {
      before,
      deferredScale = false,
      ofTokens = false,
    } = {},
  ) => {
    // Masked rows are zero already, or nobody reads them.
    const prepared = given.map(([data, gradient]) => {
      const logits = { data, dtype, shape: [SEQUENCES, length, vocab] }
      const written = { gradient, zeroInactive: false }
      return hold(
        ofTokens
          ? prepareCrossEntropy(logits, labels, { shift: false, stream, ...written })
          : prepareFusedPreferenceLoss(logits, labels, { ...options, ...written, deferredScale }),
      )
    })
    const calls = prepared.map((each) => () => each.enqueue(stream))
    const { workspaceBytes } = prepared[0]
    const tell = (
      /** @type {string} */ name,
      /** @type {{ ms: number, p20: number, p80: number }} */ took,
      /** @type {number} */ bandwidth,
    ) => {
      const share = (transfers * active * logitsBytes) / bandwidth / 1e6 / took.ms
      results.push({ case: one.name, stage: name, peer: 'ours', ...took, share, workspaceBytes })
    }
    const took = timeCalls(stream, calls, { before })
    tell(stage, took, bandwidth)
    if (took.ms < SHORT_MS && !before) {
      found.bandwidthInGraph ??= copyBandwidth(stream, sets, true)
      tell(`${stage} in a graph`, timeCalls(stream, calls, { inGraph: true }), found.bandwidthInGraph)
    }
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
  // 64 rows are too few to be read and written in one go.
  if (rows > 64) {
    const given = sets.map(({ logits, out }) => /** @type {[DeviceBuffer, DeviceBuffer]} */ ([logits, out]))
    add('deferred scale', 2, given, { deferredScale: true })
    add('cross-entropy', 2, given, { ofTokens: true })
  }
  for (const { out } of sets) out.dispose()
  // A gradient that is taken for logits would be another problem: they come back before each round.
  const inPlace = sets.map(({ logits }) => logits)
  while (inPlace.length < LEAST_IN_PLACE) inPlace.push(hold(copyOf(first)))
  const untouched = hold(copyOf(first))
  add(
    'in-place',
    3,
    inPlace.map((logits) => [logits, 'in-place']),
    {
      before: () => {
        for (const logits of inPlace) logits.copyFrom(untouched, { stream })
      },
    },
  )
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

function table(/** @type {any[]} */ results) {
  const ours = new Map(results.filter((r) => r.peer === 'ours').map((r) => [`${r.case} ${r.stage}`, r.ms]))
  return results.map((r) => {
    const name = `${r.case ?? ''} ${r.stage ?? ''}`.padEnd(44)
    if (r.skipped) return `${name} ${r.peer.padEnd(31)} skipped: ${r.skipped}`
    const ratio = r.ms / (ours.get(`${r.case} ${r.stage}`) ?? Number.NaN)
    const share = r.share ? `${(100 * r.share).toFixed(1)} % of the copy` : `${ratio.toFixed(2)} × ours`
    const memory = r.peakBytes ? `, peak ${(r.peakBytes / 1e6).toFixed(0)} MB beyond the logits` : ''
    return `${name} ${r.peer.padEnd(31)} ${r.ms.toFixed(3).padStart(9)} ms   ${share}${memory}`
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
  /** @type {(Case & Found)[]} */
  const measured = []
  mkdirSync(dirname(values.json), { recursive: true })
  const write = (/** @type {any[]} */ others) => {
    const report = { date: new Date().toISOString(), device, cases: measured, peers: others }
    writeFileSync(values.json, `${JSON.stringify(report, null, 1)}\n`)
  }
  for (const one of chosen) {
    const found = measure(one, stream, device.l2Cache)
    measured.push({ ...one, ...found })
    const { bandwidth } = found
    console.log(`${one.name}: ${bandwidth ? `copy ${(bandwidth / 1000).toFixed(2)} TB/s` : 'not enough memory'}`)
    console.log(table(found.results).join('\n'))
    write([]) // all there is where what follows takes too long
  }
  const isAlone = values.peer.length > 0 && values.peer.every((name) => name === 'ours')
  const shared = measured.filter(({ masked, dtype }) => masked <= 0.5 && dtype !== 'float16')
  const task = () => ({ cases: shared, agreement: agreementProblem(), reference: REFERENCE })
  const others = isAlone ? [] : toldByPeers(task())
  const all = [...measured.flatMap(({ results }) => results), ...others]
  if (others.length > 0) console.log(`\n${table(all).join('\n')}`)
  write(others)
}
