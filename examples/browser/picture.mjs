// Builds the page, runs it in headless Chromium, prints what it has measured, and writes its picture for docs/demo.md.
//
//   node examples/browser/picture.mjs
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { build, preview } from 'vite'
import { LAUNCH } from '../../scripts/chromium.mjs'

const configFile = fileURLToPath(new URL('vite.config.mjs', import.meta.url))
await build({ configFile, logLevel: 'error' })
const server = await preview({ configFile, preview: { port: 0, host: '127.0.0.1' } })
const browser = await chromium.launch(LAUNCH)
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } })
await page.goto(/** @type {string} */ (server.resolvedUrls?.local[0]))
await page.locator('#run button').click()
await page.locator('#run[data-state=finished], #run[data-state=failed]').waitFor({ timeout: 600_000 })
// The progress bar and the table's bars move to their ends.
await page.waitForTimeout(600)
for (const part of ['#run [role=status]', '#comparison table', '.verdict', '.engines']) {
  console.log(...(await page.locator(part).allInnerTexts()))
}
const pairs = /** @type {{ y: number }} */ (await page.locator('#pairs').boundingBox())
const clip = { x: 72, y: 16, width: 1136, height: pairs.y - 20, scale: 1 }
const session = await page.context().newCDPSession(page)
const options = /** @type {const} */ ({ format: 'webp', quality: 88, captureBeyondViewport: true, clip })
const { data } = await session.send('Page.captureScreenshot', options)
writeFileSync(new URL('../../docs/assets/browser-demo.webp', import.meta.url), Buffer.from(data, 'base64'))
await browser.close()
await server.close()
