/**
 * `npm run bench -- --backend webgpu`: the forward pass and the step on logits in a GPUBuffer, in Chromium, beside the
 * trainers' own operations, naive shaders, and a copy of the logits in the same run. On SwiftShader, which is software,
 * times mean little by themselves, and ratios alone are shown.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { build } from 'rolldown'
import { browserFiles } from '../../scripts/browser-files.mjs'
import { CHROMIUM, LAUNCH_WEBGPU } from '../../scripts/chromium.mjs'
import { Absent } from '../absent.mjs'
import { ownFiles } from '../browser/bundle.mjs'
import { serveFiles } from '../browser/server.mjs'
import { webgpuText } from './table.mjs'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** @param {{ quick: boolean, megabytes?: string, json: string }} options */
export async function benchWebgpu({ quick, megabytes, json }) {
  if (CHROMIUM === undefined) throw new Absent('no Chromium here: set CHROMIUM to its path')
  await build({
    input: `${root}bench/webgpu/page.mjs`,
    platform: 'browser',
    plugins: [ownFiles, browserFiles()],
    logLevel: 'silent',
    output: {
      dir: `${root}bench/out/webgpu`,
      format: 'esm',
      entryFileNames: '[name].mjs',
      chunkFileNames: '[name].mjs',
    },
  })
  const vocab = 50257
  const size = Number(megabytes ?? (quick ? 4 : 16)) * 2 ** 20
  const rows = Math.max(8, 4 * Math.floor(size / vocab / 16))
  const browser = await chromium.launch(LAUNCH_WEBGPU)
  const server = await serveFiles()
  try {
    const page = await browser.newPage()
    page.on('pageerror', (error) => console.error(error))
    await page.goto(`${server.origin}/bench/webgpu/page.html`)
    await page.waitForFunction('globalThis.measure')
    const options = { vocab, rows, rounds: quick ? 5 : 11 }
    const results = await page.evaluate(`measure(${JSON.stringify(options)})`)
    console.log(webgpuText(/** @type {any} */ (results)))
    mkdirSync(dirname(json), { recursive: true })
    const command = ['npm run bench --', ...process.argv.slice(2)].join(' ')
    writeFileSync(
      json,
      `${JSON.stringify({ .../** @type {object} */ (results), command, chromium: browser.version() })}\n`,
    )
    console.log(`results: ${json}`)
  } finally {
    await browser.close()
    server.close()
  }
}
