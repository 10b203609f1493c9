/**
 * Tests the packed tarball where no addon loads: pages in Chromium, made by each bundler and by none, and an edge runtime;
 * and in the runtimes beside Node.js. Results must have the bits of Node.js. Writes its part of docs/platforms.md.
 *
 *   npm run test:bundles -- --quick    without webpack, Rspack, esbuild and pages that are not isolated; writes nothing
 *
 * What is not there, Chromium or a package that cannot be installed, is named and left out, which is a failure under
 * CI=true.
 */
import assert from 'node:assert/strict'
import { CHROMIUM } from '../../scripts/chromium.mjs'
import { pages } from './pages.mjs'
import { closingLine, writeDocument } from './rows.mjs'
import { runtimes } from './runtimes.mjs'
import { cleanUp } from './support.mjs'
import { hasPackage, hasTools, leftOut, quick, wanted } from './web.mjs'

for (const what of leftOut) console.log(`left out: ${what}`)
if (hasPackage) {
  assert(wanted.wasm, 'prebuilds/wasm is missing: npm run build:wasm')
  if (CHROMIUM !== undefined) await pages()
  if (hasTools) await runtimes()
}
if (!quick && leftOut.length === 0) writeDocument()
cleanUp()
closingLine()
if (process.env.CI === 'true' && leftOut.length > 0) process.exitCode = 1
