/**
 * `npm run bench`: compares ours with the alternatives a user could pick, and with the memory's own speed, in Node.js or in
 * a browser.
 * This file reads the arguments and puts the parts together: cases.mjs, peers/, measure.mjs, table.mjs.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { getBackends } from 'fused-preference-loss'
import { Absent } from './absent.mjs'
import { allCases, selectCases } from './cases.mjs'
import { startProcess } from './contender.mjs'
import { describeMachine, describeVersions } from './machine.mjs'
import { measure } from './measure.mjs'
import * as inBrowsers from './peers/index.browser.mjs'
import * as inNode from './peers/index.mjs'
import { progressLine } from './progress.mjs'
import { banner, caseText } from './table.mjs'

const USAGE = `npm run bench [-- OPTIONS]
  --quick             few cases and repetitions; ends within a minute, for wasm within three
  --full              also output layers of 16 to 1024 rows, widths of 64 to 1024, in float32 and bfloat16
  --case NAME         a case or a group of cases; may be repeated
  --peer NAME         a peer to compare with; may be repeated. Defaults to all
  --dtype TYPE        float32, bfloat16 or float16; may be repeated
  --backend NAME      our backend: cpu (the default), wasm, js, cuda or webgpu; in a browser wasm (the default) or js
  --browser           runs in Chromium: /usr/bin/chromium, or the path in CHROMIUM
  --threads N         threads of ours, of peers that have threads, and of the memory's measurement. Defaults to all,
                      for wasm and in a browser to 1, as most peers have one there
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
      full: { type: 'boolean', default: false },
      case: { type: 'string', multiple: true, default: [] },
      peer: { type: 'string', multiple: true, default: [] },
      dtype: { type: 'string', multiple: true, default: [] },
      backend: { type: 'string' },
      browser: { type: 'boolean', default: false },
      threads: { type: 'string' },
      megabytes: { type: 'string' },
      json: { type: 'string', default: fileURLToPath(new URL('out/latest.json', import.meta.url)) },
      help: { type: 'boolean', default: false },
    },
  })
  return { ...values, backend: values.backend ?? (values.browser ? 'wasm' : 'cpu') }
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
function choosePeers(/** @type {ReturnType<typeof options>} */ { backend, browser, peer: names, quick }) {
  const backends = browser ? ['wasm', 'js'] : ['cpu', 'wasm', 'js', 'cuda']
  if (!backends.includes(backend)) {
    const where = browser ? ' in a browser' : ''
    throw new RangeError(`no backend is called '${backend}'${where}\nbackends: ${backends.join(', ')}`)
  }
  const { PEERS, findPeer } = browser ? inBrowsers : inNode
  const ours = findPeer(backend === 'cpu' ? 'ours' : `ours-${backend}`)
  // Beside wasm, what runs where it does.
  const portable = [inNode.findPeer('ours'), ...inBrowsers.PEERS]
  const usual = PEERS.filter((peer) => backend !== 'wasm' || portable.includes(peer))
  const brief = usual.filter((peer) => peer.quick || (backend === 'wasm' && peer.name.startsWith('ours')))
  const others = names.length > 0 ? names.map(findPeer) : quick ? brief : usual
  return [ours, ...others.filter((peer) => peer !== ours)]
}

/** Checks the options and makes a plan of them. */
function plan(/** @type {ReturnType<typeof options>} */ values) {
  const machine = describeMachine()
  const limits = values.quick ? QUICK : FULL
  const { backend, browser } = values
  const isPortable = backend === 'wasm' || browser
  const threads = count(values.threads, 'threads', isPortable ? 1 : machine.threads)
  const lastLevelCache = machine.lastLevelCache ?? USUAL_CACHE
  const instructionSets = backend === 'cpu' ? machine.instructionSets : []
  const megabytes = count(values.megabytes, 'megabytes', limits.megabytes)
  const peers = choosePeers(values)
  const list = allCases({ megabytes, threads, backend, allThreads: machine.threads, instructionSets, lastLevelCache })
  const cases = selectCases(list, { names: values.case, dtypes: values.dtype, quick: values.quick, full: values.full })
  return {
    machine,
    cases,
    measuring: {
      ...limits,
      peers,
      peersWereNamed: values.peer.length > 0,
      absent: new Map(),
      meter: isPortable ? inNode.wasmLimits : inNode.bandwidth,
      exact: isPortable,
      threads,
      lastLevelCache,
    },
  }
}

async function main(/** @type {ReturnType<typeof options>} */ values) {
  if (values.backend === 'cuda' && !values.browser) {
    const { cuda } = getBackends()
    if (cuda.available) return (await import('./cuda/run.mjs')).benchCuda(values)
    console.error(`--backend cuda: ${cuda.reason}`)
    process.exitCode = 1
    return
  }
  if (values.backend === 'webgpu') return (await import('./webgpu/run.mjs')).benchWebgpu(values)
  const { machine, cases, measuring } = plan(values)
  const versions = await describeVersions(measuring.peers.some(({ inPython }) => inPython))
  const browser = values.browser ? await (await import('./browser/contender.mjs')).openBrowser() : undefined
  if (browser) versions.chromium = browser.version
  const start = browser?.start ?? startProcess
  console.log(`${banner(machine, versions)}\n`)
  if (values.quick) console.log('--quick: few cases, peers and repetitions; leave it out for figures to rely on\n')
  const progress = progressLine(cases.length)
  const results = []
  try {
    for (const [index, one] of cases.entries()) {
      progress.begin(index, one.name)
      const result = await measure(one, { ...measuring, start, progress: progress.update })
      progress.end()
      console.log(`${caseText(result)}\n`)
      results.push(result)
    }
  } finally {
    await browser?.close()
  }
  const command = ['npm run bench --', ...process.argv.slice(2)].join(' ')
  mkdirSync(dirname(values.json), { recursive: true })
  const date = new Date().toISOString()
  writeFileSync(values.json, `${JSON.stringify({ format: 1, date, command, machine, versions, cases: results })}\n`)
  console.log(`results: ${values.json}`)
}

/** Errors that are told by their message alone, each with the status that the process ends with. */
function statusOf(/** @type {any} */ error) {
  if (error instanceof Absent) return 1
  return error instanceof RangeError || String(error.code).startsWith('ERR_PARSE_ARGS') ? 2 : undefined
}

try {
  const values = options()
  if (values.help) console.log(USAGE)
  else await main(values)
} catch (error) {
  const status = statusOf(error)
  if (status === undefined) throw error
  console.error(/** @type {Error} */ (error).message)
  process.exitCode = status
}
