/**
 * The tests of the core in Chromium, on the backends wasm and js: `npm run test:browser`.
 */
import { existsSync } from 'node:fs'
import { playwright } from '@vitest/browser-playwright'
import type { Plugin } from 'vite'
import { defineConfig, type TestProjectConfiguration } from 'vitest/config'
import { browserFiles } from './scripts/browser-files.mjs'
import { LAUNCH } from './scripts/chromium.mjs'
import { wgslFiles } from './scripts/wgsl-files.mjs'

/** The files of tests that do not run in a page, and why. All others do. */
const LEFT_OUT: Record<string, string[]> = {
  'start programs, read files or look at the package': [
    ...[
      'bench',
      'browser-example',
      'ci',
      'cli',
      'copies',
      'docs',
      'exact-math',
      'examples',
      'float-environment',
      'gpu-scripts',
      'layers',
    ],
    ...[
      'lent-arrays',
      'lock',
      'memory',
      'mpi-shard',
      'options',
      'package',
      'package-types',
      'plot',
      'promise-lifetimes',
      'ranks-programs',
      'release',
      'tarball',
    ],
    ...['trainer-changes', 'mpi', 'mpi-absent', 'mpi-failures', 'naga', 'reference-ranks'],
    ...['available-threads', 'data-parallel', 'multiply-adds', 'tuning'],
  ],
  'are about the addon, CUDA or packages that a page does not have': [
    ...[
      'amx',
      'amx-golden',
      'blas',
      'blas-golden',
      'cuda',
      'cuda-failures',
      'cuda-faults',
      'cuda-head',
      'cuda-launches',
      'cuda-lengths',
      'cuda-lifetimes',
      'cuda-log-probs',
      'cuda-pools',
      'cuda-predict',
      'cuda-prepared',
      'cuda-resources',
      'cuda-rows',
      'cuda-tokens',
      'job-fields',
    ],
    ...['nccl', 'nccl-golden', 'nccl-shard', 'onnxruntime', 'ptx', 'sass', 'shard-overlap'],
  ],
  'are about streams and files of Node.js': ['data', 'data-sources', 'metrics-file', 'reference-ranks'],
  'replace modules of the package': ['sharded-golden'],
  'load the WebAssembly in their own ways, a page’s in browser.test.ts': ['browser', 'load-wasm'],
}
const leftOut = Object.values(LEFT_OUT).flatMap((names) => names.map((name) => `test/${name}.test.ts`))
const gone = leftOut.filter((path) => !existsSync(path))
if (gone.length > 0) throw new Error(`vitest.browser.config.ts leaves out what does not exist: ${gone.join(', ')}`)

/** What the tests import: found in the middle of a run, it would load pages anew. */
const PACKAGES = [
  ...['@tensorflow/tfjs', '@tensorflow/tfjs-backend-cpu', '@tensorflow/tfjs-backend-wasm', '@tensorflow/tfjs-core'],
  ...['@jax-js/jax', 'fast-check'],
]

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

/** The tests in one kind of page. */
const pages = (name: string, headers: Record<string, string>, include: string[]): TestProjectConfiguration => ({
  plugins: [{ ...browserFiles(), enforce: 'pre' }, { ...wgslFiles(), enforce: 'pre' }, tfjsWasm],
  server: { headers },
  optimizeDeps: { include: PACKAGES },
  test: {
    name,
    testTimeout: 60_000,
    include,
    exclude: leftOut,
    setupFiles: ['test/setup.browser.ts'],
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      provider: playwright({ launchOptions: LAUNCH }),
      instances: [{ browser: 'chromium' }],
    },
  },
})

/** With these a page shares memory with its workers. */
const ISOLATION = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' }
/** Tests of how calls run, which is another way where memory is not shared. */
const HOW_CALLS_RUN = ['promises', 'settings', 'wasm', 'wasm-bits', 'wasm-memory'].map((name) => `test/${name}.test.ts`)

export default defineConfig({
  test: {
    reporters: ['default', './test/closing-line.ts'],
    projects: [pages('isolated', ISOLATION, ['test/*.test.ts']), pages('not isolated', {}, HOW_CALLS_RUN)],
  },
})
