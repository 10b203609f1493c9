/**
 * The arguments of `npm run bench`, and the plan that follows from them.
 */
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { allCases, selectCases } from './cases.mjs'
import { describeMachine } from './machine.mjs'
import * as inBrowsers from './peers/index.browser.mjs'
import * as inNode from './peers/index.mjs'

export const USAGE = `npm run bench [-- OPTIONS]
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
  --cache-megabytes N size of the cache that inputs must not fit in. Defaults to that of the largest cache of a core
  --json FILE         the file of the results. Defaults to bench/out/latest.json`

/** Limits of one case; see measure.mjs. */
const FULL = { rounds: 14, seconds: 1.3, slowLogits: 2 ** 22, patience: 60, megabytes: 256 }
const QUICK = { rounds: 7, seconds: 0.6, slowLogits: 2 ** 20, patience: 30, megabytes: 64 }

/** Used where the system does not report the size of the last-level cache. */
const USUAL_CACHE = 32 * 2 ** 20

/** @param {string[]} [args] those of the process by default */
export function readOptions(args) {
  const { values } = parseArgs({
    args,
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
      'cache-megabytes': { type: 'string' },
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
function choosePeers(/** @type {ReturnType<typeof readOptions>} */ { backend, browser, peer: names, quick }) {
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
export function plan(/** @type {ReturnType<typeof readOptions>} */ values) {
  const machine = describeMachine()
  const limits = values.quick ? QUICK : FULL
  const { backend, browser } = values
  const isPortable = backend === 'wasm' || browser
  const threads = count(values.threads, 'threads', isPortable ? 1 : machine.threads)
  const cache = (machine.lastLevelCache ?? USUAL_CACHE) / 2 ** 20
  const lastLevelCache = count(values['cache-megabytes'], 'cache-megabytes', cache) * 2 ** 20
  const instructionSets = backend === 'cpu' ? machine.instructionSets : []
  const megabytes = count(values.megabytes, 'megabytes', limits.megabytes)
  const peers = choosePeers(values)
  const list = allCases({ megabytes, threads, backend, allThreads: machine.threads, instructionSets })
  const cases = selectCases(list, { names: values.case, dtypes: values.dtype, quick: values.quick, full: values.full })
  return {
    machine,
    cases,
    measuring: {
      ...limits,
      peers,
      peersWereNamed: values.peer.length > 0,
      absent: new Map(),
      accuracies: new Set(),
      meter: isPortable ? inNode.wasmLimits : inNode.bandwidth,
      exact: isPortable,
      threads,
      lastLevelCache,
    },
  }
}
