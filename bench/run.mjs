/**
 * `npm run bench`: compares ours with the alternatives a user could pick, and with the memory's own speed.
 * This file reads the arguments and puts the parts together: cases.mjs, peers/, measure.mjs, table.mjs.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { getBackends } from 'fused-preference-loss'
import { allCases, selectCases } from './cases.mjs'
import { describeMachine, describeVersions } from './machine.mjs'
import { measure } from './measure.mjs'
import { bandwidth, findPeer, PEERS } from './peers/index.mjs'
import { progressLine } from './progress.mjs'
import { banner, caseText } from './table.mjs'

const USAGE = `npm run bench [-- OPTIONS]
  --quick             few cases and repetitions; ends within a minute
  --case NAME         a case or a group of cases; may be repeated
  --peer NAME         a peer to compare with; may be repeated. Defaults to all
  --dtype TYPE        float32, bfloat16 or float16; may be repeated
  --backend NAME      our backend: cpu (the default), wasm, js or cuda
  --threads N         threads of ours, of peers that have threads, and of the memory's measurement. Defaults to all
  --megabytes N       size of the logits of a float32 batch. Defaults to 256, with --quick 64
  --json FILE         the file of the results. Defaults to bench/out/latest.json`

/** Limits of one case; see measure.mjs. */
const FULL = { rounds: 14, seconds: 1.3, slowLogits: 2 ** 22, patience: 60, megabytes: 256 }
const QUICK = { rounds: 7, seconds: 0.6, slowLogits: 2 ** 20, patience: 30, megabytes: 64 }

/** Used where the system does not report the size of the last-level cache. */
const USUAL_CACHE = 32 * 2 ** 20

function options() {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      case: { type: 'string', multiple: true, default: [] },
      peer: { type: 'string', multiple: true, default: [] },
      dtype: { type: 'string', multiple: true, default: [] },
      backend: { type: 'string', default: 'cpu' },
      threads: { type: 'string' },
      megabytes: { type: 'string' },
      json: { type: 'string', default: fileURLToPath(new URL('out/latest.json', import.meta.url)) },
      help: { type: 'boolean', default: false },
    },
  })
  return values
}

/** A whole number given as an option. */
function count(/** @type {string | undefined} */ text, /** @type {string} */ name, /** @type {number} */ usual) {
  if (text === undefined) return usual
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1)
    throw new RangeError(`--${name} must be a whole number from 1, got '${text}'`)
  return value
}

/** Our backend first, then the requested peers; with --quick, the fastest formulation of each library. */
function choosePeers(/** @type {ReturnType<typeof options>} */ { backend, peer: names, quick }) {
  const backends = ['cpu', 'wasm', 'js', 'cuda']
  if (!backends.includes(backend)) {
    throw new RangeError(`no backend is called '${backend}'\nbackends: ${backends.join(', ')}`)
  }
  const ours = findPeer(backend === 'cpu' ? 'ours' : `ours-${backend}`)
  const usual = quick ? PEERS.filter((peer) => peer.quick) : PEERS
  const others = names.length > 0 ? names.map(findPeer) : usual
  return [ours, ...others.filter((peer) => peer !== ours)]
}

/** Checks the options and makes a plan of them. */
function plan(/** @type {ReturnType<typeof options>} */ values) {
  const machine = describeMachine()
  const limits = values.quick ? QUICK : FULL
  const threads = count(values.threads, 'threads', machine.threads)
  const lastLevelCache = machine.lastLevelCache ?? USUAL_CACHE
  const instructionSets = values.backend === 'cpu' ? machine.instructionSets : []
  const megabytes = count(values.megabytes, 'megabytes', limits.megabytes)
  const peers = choosePeers(values)
  const list = allCases({ megabytes, threads, instructionSets, lastLevelCache })
  const cases = selectCases(list, { names: values.case, dtypes: values.dtype, quick: values.quick })
  return {
    machine,
    cases,
    measuring: {
      ...limits,
      peers,
      peersWereNamed: values.peer.length > 0,
      absent: new Map(),
      bandwidth,
      threads,
      lastLevelCache,
    },
  }
}

async function main(/** @type {ReturnType<typeof options>} */ values) {
  if (values.backend === 'cuda') {
    const { cuda } = getBackends()
    if (cuda.available) return (await import('./cuda/run.mjs')).benchCuda(values)
    console.error(`--backend cuda: ${cuda.reason}`)
    process.exitCode = 1
    return
  }
  const { machine, cases, measuring } = plan(values)
  const versions = describeVersions(measuring.peers.some(({ inPython }) => inPython))
  console.log(`${banner(machine, versions)}\n`)
  if (values.quick) console.log('--quick: few cases, peers and repetitions; leave it out for figures to rely on\n')
  const progress = progressLine(cases.length)
  const results = []
  for (const [index, one] of cases.entries()) {
    progress.begin(index, one.name)
    const result = await measure(one, { ...measuring, progress: progress.update })
    progress.end()
    console.log(`${caseText(result)}\n`)
    results.push(result)
  }
  const command = ['npm run bench --', ...process.argv.slice(2)].join(' ')
  mkdirSync(dirname(values.json), { recursive: true })
  const date = new Date().toISOString()
  writeFileSync(values.json, `${JSON.stringify({ format: 1, date, command, machine, versions, cases: results })}\n`)
  console.log(`results: ${values.json}`)
}

try {
  const values = options()
  if (values.help) console.log(USAGE)
  else await main(values)
} catch (error) {
  if (!(error instanceof RangeError || String(/** @type {any} */ (error).code).startsWith('ERR_PARSE_ARGS')))
    throw error
  console.error(/** @type {Error} */ (error).message)
  process.exitCode = 2
}
