/**
 * The tests of the core in Chromium, on the backends wasm and js: `npm run test:browser`.
 */
import { existsSync } from 'node:fs'
import { playwright } from '@vitest/browser-playwright'
import type { Plugin } from 'vite'
import { defineConfig } from 'vitest/config'
import { browserFiles } from './scripts/browser-files.mjs'
import { LAUNCH } from './scripts/chromium.mjs'

/** The files of tests that do not run in a page, and why. All others do. */
const LEFT_OUT: Record<string, string[]> = {
  'start programs, read files or look at the package': [
    ...['bench', 'cli', 'copies', 'docs', 'exact-math', 'examples', 'float-environment', 'gpu-scripts', 'layers'],
    ...['lent-arrays', 'memory', 'options', 'package', 'plot', 'promise-lifetimes', 'release', 'tarball'],
    ...['trainer-changes'],
  ],
  'are about the addon, CUDA or packages that a page does not have': [
    ...['cuda', 'cuda-faults', 'cuda-head', 'cuda-lifetimes', 'cuda-tokens', 'job-fields', 'onnxruntime'],
  ],
  'are about streams and files of Node.js': ['data', 'metrics', 'unpaired-data'],
  'load the WebAssembly in their own ways, a page’s in browser.test.ts': ['browser', 'load-wasm'],
}
const leftOut = Object.values(LEFT_OUT).flatMap((names) => names.map((name) => `test/${name}.test.ts`))
const gone = leftOut.filter((path) => !existsSync(path))
if (gone.length > 0) throw new Error(`vitest.browser.config.ts leaves out what does not exist: ${gone.join(', ')}`)

/** TensorFlow.js looks for its WebAssembly beside its bundled script. */
const tfjsWasm: Plugin = {
  name: 'tfjs-wasm',
  configureServer({ middlewares }) {
    middlewares.use((request, _, next) => {
      const [name] = /tfjs-backend-wasm[\w-]*\.wasm$/.exec(request.url ?? '') ?? []
      if (name !== undefined) request.url = `/node_modules/@tensorflow/tfjs-backend-wasm/dist/${name}`
      next()
    })
  },
}

export default defineConfig({
  plugins: [{ ...browserFiles(), enforce: 'pre' }, tfjsWasm],
  // Pages share memory with workers only when they are isolated from other origins.
  server: {
    headers: {
      'Cross-Origin-Opener-Policy': 'same-origin',
      'Cross-Origin-Embedder-Policy': 'require-corp',
    },
  },
  test: {
    testTimeout: 60_000,
    include: ['test/*.test.ts'],
    exclude: leftOut,
    setupFiles: ['test/setup.browser.ts'],
    reporters: ['default', './test/closing-line.ts'],
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      provider: playwright({ launchOptions: LAUNCH }),
      instances: [{ browser: 'chromium' }],
    },
  },
})
