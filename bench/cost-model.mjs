/**
 * What more ranks cost and bring, on paper: bytes and messages of a step against the time of its products. Writes the table
 * and the picture of docs/distributed.md.
 *
 *   node bench/cost-model.mjs [--check]
 *
 * --check   writes nothing; fails when the page or the picture is out of date
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { partOf, table, withParts } from '../examples/moby-dick/page.mjs'
import { plot } from '../examples/moby-dick/plot.mjs'

/** Operations a second of a rank's matrix products: half of what an H100 does at most in bfloat16. */
const FLOPS = 495e12

/**
 * Measured all-reduces of NCCL: bytes a second that each rank sends, and seconds that a message takes to a rank and, with k
 * ranks, log2 k times. docs/distributed.md says where they are from.
 */
const LINKS = [
  { name: 'NVLink', bandwidth: 365e9, latency: 6e-6 },
  { name: 'PCIe', bandwidth: 28e9, latency: 14e-6 },
  { name: '100 Gb/s', bandwidth: 12.2e9, latency: 19e-6 },
]
/** @typedef {(typeof LINKS)[number]} Link */

/** The output layer of the example: vocabulary, width, tokens of a step. Shared, it sends a state for each of 64 segments. */
const LAYER = { vocab: 256_000, width: 8192, tokens: 8192, segments: 64, bytesOfState: 16 }
/** Training of a whole model on a batch of so many tokens, of which each rank takes its share. */
const BATCH = { tokens: 2 ** 20, parameters: 8e9 }
const HEADER = 320
const RANKS = Array.from({ length: 11 }, (_, i) => 2 ** i)

/** Seconds that collectives take in which each rank sends these bytes, in so many messages one after the other. */
function seconds(
  /** @type {Link} */ { bandwidth, latency },
  /** @type {number} */ ranks,
  /** @type {number} */ bytes,
  messages = 1,
) {
  return messages * latency * Math.ceil(Math.log2(ranks)) + bytes / bandwidth
}

/** Bytes that a rank sends where all ranks' parts of `bytes` come to every rank, and where arrays of `bytes` are added up. */
const gathered = (/** @type {number} */ ranks, /** @type {number} */ bytes) => ((ranks - 1) / ranks) * bytes
const added = (/** @type {number} */ ranks, /** @type {number} */ bytes) => 2 * gathered(ranks, bytes)

/** A step of an output layer that ranks share: forward, and gradients of hidden states and weight. */
export function sharedLayer(/** @type {Link} */ link, /** @type {number} */ ranks) {
  const { vocab, width, tokens, segments, bytesOfState } = LAYER
  const products = (6 * tokens * vocab * width) / (ranks * FLOPS)
  if (ranks === 1) return { products, sent: 0, bytes: 0 }
  const states = gathered(ranks, 2 * ranks * HEADER + tokens * (Math.max(segments, ranks) * bytesOfState + 4))
  const hidden = added(ranks, 4 * tokens * width)
  const bytes = states + hidden + gathered(ranks, ranks * HEADER)
  return { products, bytes, sent: seconds(link, ranks, bytes, 5) }
}

/** A step of a model of which every rank has a copy: three products for each parameter and token, and the sum of gradients. */
export function dataParallel(/** @type {Link} */ link, /** @type {number} */ ranks) {
  const { tokens, parameters } = BATCH
  const products = (6 * tokens * parameters) / (ranks * FLOPS)
  if (ranks === 1) return { products, sent: 0, bytes: 0 }
  const bytes = added(ranks, 4 * parameters)
  return { products, bytes, sent: seconds(link, ranks, bytes, 2) }
}

/** The share of a step's time in which products are computed, when nothing is sent meanwhile. */
const share = (/** @type {{ products: number, sent: number }} */ { products, sent }) => products / (products + sent)

/** The most ranks, of all numbers up to 1024, of which this is true. */
function most(/** @type {(ranks: number) => boolean} */ holds) {
  for (let ranks = 1024; ranks > 1; ranks--) if (holds(ranks)) return ranks
  return 1
}

/** How many times as fast as one rank the best number of ranks is, of all up to 1024. */
function fastest(/** @type {(ranks: number) => { products: number, sent: number }} */ stepOf) {
  const times = Array.from({ length: 1024 }, (_, i) => stepOf(i + 1)).map(({ products, sent }) => products + sent)
  return Math.round(times[0] / Math.min(...times))
}

const timeOf = (/** @type {number} */ time) => {
  const [value, unit] = time < 1 ? [1000 * time, 'ms'] : [time, 's']
  return `${Number(value.toPrecision(2))} ${unit}`
}
const STEPS = { 'output layer, shared': sharedLayer, 'whole model, data parallel': dataParallel }

const rows = [['', '', ...LINKS.map(({ name }) => name)]]
for (const [name, step] of Object.entries(STEPS)) {
  const cells = (/** @type {(link: Link) => string} */ of) => LINKS.map(of)
  const half = (/** @type {Link} */ link) => most((ranks) => share(step(link, ranks)) >= 0.5)
  const limit = (/** @type {number} */ ranks) => (ranks === 1024 ? 'more than 1024' : String(ranks))
  rows.push(
    [name, 'products on one rank', ...cells((link) => timeOf(step(link, 1).products))],
    [
      '',
      '8 ranks: products, sending',
      ...cells((link) => `${timeOf(step(link, 8).products)}, ${timeOf(step(link, 8).sent)}`),
    ],
    ['', 'half of the time is products up to', ...cells((link) => `${limit(half(link))} ranks`)],
    [
      '',
      'the most that ranks make a step faster',
      ...cells((link) => `${fastest((ranks) => step(link, ranks))} times`),
    ],
  )
}

const picture = plot(
  Object.entries({
    [`Output layer of ${LAYER.vocab / 1000} 000 × ${LAYER.width}`]: sharedLayer,
    'Batch of 2²⁰ tokens, data parallel': dataParallel,
  }).map(([title, step]) => ({
    title,
    range: [0, 1],
    lines: LINKS.map((link) => ({
      name: link.name,
      points: RANKS.map((ranks) => [Math.log2(ranks), share(step(link, ranks))]),
    })),
  })),
  'ranks (share of the time that is products)',
  (tick) => String(2 ** tick),
)

const PAGE = fileURLToPath(new URL('../docs/distributed.md', import.meta.url))
const PICTURE = fileURLToPath(new URL('../docs/assets/cost-model.svg', import.meta.url))
if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const page = readFileSync(PAGE, 'utf8')
  const costs = table(rows)
  if (!process.argv.includes('--check')) {
    writeFileSync(PAGE, withParts(page, { costs }))
    writeFileSync(PICTURE, picture)
  } else if (partOf(page, 'costs') !== costs || readFileSync(PICTURE, 'utf8') !== picture) {
    console.error('docs/distributed.md is out of date: node bench/cost-model.mjs')
    process.exitCode = 1
  }
}
