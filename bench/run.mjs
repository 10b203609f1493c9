/**
 * `npm run bench`: compares ours with the alternatives a user could pick, and with the memory's own speed, in Node.js or in
 * a browser.
 * This file puts the parts together: options.mjs, cases.mjs, peers/, measure.mjs, table.mjs.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { getBackends } from 'fused-preference-loss'
import { Absent } from './absent.mjs'
import { startProcess } from './contender.mjs'
import { describeVersions } from './machine.mjs'
import { measure } from './measure.mjs'
import { plan, readOptions, USAGE } from './options.mjs'
import { progressLine } from './progress.mjs'
import { banner, caseText } from './table.mjs'

async function main(/** @type {ReturnType<typeof readOptions>} */ values) {
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
  const values = readOptions()
  if (values.help) console.log(USAGE)
  else await main(values)
} catch (error) {
  const status = statusOf(error)
  if (status === undefined) throw error
  console.error(/** @type {Error} */ (error).message)
  process.exitCode = status
}
