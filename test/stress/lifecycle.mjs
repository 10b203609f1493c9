/**
 * Processes and threads that begin, call, and end at any moment: each exits with the expected code and without a
 * signal. Every child derives its moments from the numbers it gets.
 */
import { spawn } from 'node:child_process'
import cluster from 'node:cluster'
import { Worker } from 'node:worker_threads'

const quick = process.argv.includes('--quick')
const DIST = new URL('../../dist/index.mjs', import.meta.url).href

const HEAD = `
  import * as fpl from ${JSON.stringify(DIST)}
  if (!fpl.getBackends().cpu.available) throw new Error(fpl.getBackends().cpu.reason)
  const vocab = 20_000
  const call = (rows, more) => fpl.fusedPreferenceLoss(
    { data: new Float32Array(vocab), shape: [2, rows, vocab], strides: [0, 0, 1] },
    new Int32Array(2 * rows),
    { shift: false, lossType: 'cpo', threads: 2, ...more },
  )
  const reading = (more) => call(4000, more)
  const writing = (more) => call(60, { gradient: true, ...more })
  const pair = [{ chosen: [-1], rejected: [-2] }, { lossType: 'cpo' }]
  const short = () => fpl.preferenceLoss(...pair)
  const later = (action, most = 30) => setTimeout(action, most * Math.random())
`
/**
 * The programs of children, and their exit codes.
 * @type {Record<string, [code: string, status: number]>}
 */
const SCENES = {
  'exit in mid-call': ['reading(); writing(); later(() => process.exit(3))', 3],
  'exit at once': ['reading(); process.exit(4)', 4],
  'exit with many calls waiting': [
    'for (let i = 0; i < 200; i++) writing().catch(() => {}); later(() => process.exit(5))',
    5,
  ],
  'an uncaught exception': ['reading(); writing(); later(() => { throw new Error("on purpose") })', 1],
  'an unhandled rejection': ['writing(); later(() => Promise.reject(new Error("on purpose")))', 1],
  'exit from the handler of a call': ['writing().then(() => process.exit(6)); reading()', 6],
  'abort before, during and after': [
    `const outcomes = await Promise.allSettled([
      reading({ signal: AbortSignal.abort() }),
      ...Array.from({ length: 20 }, () => {
        const controller = new AbortController()
        later(() => controller.abort(), 20)
        return writing({ signal: controller.signal })
      }),
    ])
    process.exitCode = outcomes[0].status === 'rejected' ? 7 : 1`,
    7,
  ],
  'a thousand overlapping promises': [
    `const all = await Promise.all(Array.from({ length: 1000 }, (_, i) => (i % 50 ? short() : writing())))
    process.exitCode = all.every(({ loss }) => loss > 0) ? 8 : 1`,
    8,
  ],
  'collection during calls': [
    `const timer = setInterval(gc, 1)
    await Promise.all(Array.from({ length: 15 }, () => writing()))
    clearInterval(timer); process.exitCode = 9`,
    9,
  ],
  'loaded and never called': ['process.exitCode = 10', 10],
}

/** @returns {Promise<{ status: number | null, signal: string | null, errors: string }>} */
function child(/** @type {string} */ code) {
  return new Promise((resolve) => {
    const process_ = spawn(process.execPath, ['--expose-gc', '--input-type=module', '-e', HEAD + code], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let errors = ''
    process_.stderr.on('data', (chunk) => {
      errors += chunk
    })
    process_.on('close', (status, signal) => resolve({ status, signal, errors }))
  })
}

async function scenes(/** @type {number} */ times) {
  for (const [name, [code, wanted]] of Object.entries(SCENES)) {
    for (let i = 0; i < times; i++) {
      const { status, signal, errors } = await child(code)
      if (status !== wanted || signal !== null) throw new Error(`${name}: ended with ${signal ?? status}\n${errors}`)
    }
  }
  return `${times * Object.keys(SCENES).length} processes in ${Object.keys(SCENES).length} scenes`
}

/** The work of workers until they are terminated: long calls, or many short ones. */
const WORK = [
  'reading(); writing(); for (;;) await reading()',
  'for (;;) await writing()',
  'for (;;) await Promise.all(Array.from({ length: 30 }, short))',
  'for (;;) fpl.preferenceLossSync(...pair)',
]

async function workers(/** @type {number} */ count) {
  const code = `${HEAD}
    import { parentPort, workerData } from 'node:worker_threads'
    parentPort.postMessage('begun')
    ${WORK.map((code, i) => `if (workerData % ${WORK.length} === ${i}) { ${code} }`).join('\n')}`
  const url = new URL(`data:text/javascript,${encodeURIComponent(code)}`)
  let terminated = 0
  for (let i = 0; i < count; i++) {
    const worker = new Worker(url, { workerData: i })
    const problem = new Promise((_, reject) => worker.once('error', reject))
    // Some end before they have loaded anything, most during a call.
    const begun = i % 5 !== 0
    if (begun) await Promise.race([new Promise((resolve) => worker.once('message', resolve)), problem])
    else problem.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 8 * Math.random()))
    const status = await worker.terminate()
    if (status !== 1 && (begun || status !== 0)) throw new Error(`worker ${i} ended with ${status}`)
    terminated++
  }
  return `${terminated} workers terminated`
}

/** Cluster workers that call, killed or done, while the primary calls too. */
async function clustered(/** @type {number} */ count) {
  const fpl = await import(DIST)
  cluster.setupPrimary({ exec: new URL('cluster-worker.mjs', import.meta.url).pathname, args: [], execArgv: [] })
  const codes = await Promise.all(
    Array.from({ length: count }, () => {
      const worker = cluster.fork()
      return new Promise((resolve) => worker.once('exit', (status, signal) => resolve(signal ?? status)))
    }),
  )
  const { margin } = await fpl.preferenceLoss({ chosen: [-1], rejected: [-2] }, { lossType: 'cpo' })
  if (codes.some((status) => status !== 0) || !(margin > 0)) throw new Error(`cluster workers ended with ${codes}`)
  return `${count} cluster workers`
}

const done = [await scenes(quick ? 1 : 12), await workers(quick ? 100 : 600), await clustered(quick ? 2 : 12)]
console.log(`lifecycle: ${done.join(', ')}: all ended as they should`)
