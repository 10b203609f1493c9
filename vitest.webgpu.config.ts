/**
 * The tests of WebGPU, `npm run test:webgpu`: in Chromium on SwiftShader, or, where Deno runs Vitest, in Deno on the driver
 * for Vulkan that it finds. What they share with a page they get from vitest.browser.config.ts.
 */
import { playwright } from '@vitest/browser-playwright'
import { defineConfig, type TestProjectConfiguration } from 'vitest/config'
import { browserFiles } from './scripts/browser-files.mjs'
import { LAUNCH_WEBGPU } from './scripts/chromium.mjs'
import { wgslFiles } from './scripts/wgsl-files.mjs'

/** The trainers have their WebGPU backends in pages alone. */
const IN_PAGES = ['trainers', 'nanogpt'].map((name) => `test/webgpu/${name}.test.ts`)

/** Tests of all backends that run on WebGPU, too. */
const OF_ALL_BACKENDS = [
  'golden',
  'edges',
  'cross-entropy',
  'token-gradients',
  'linear',
  'linear-golden',
  'fused-head',
].map((name) => `test/${name}.test.ts`)

const shared = {
  testTimeout: 120_000,
  maxConcurrency: 8,
  include: ['test/webgpu/*.test.ts', ...OF_ALL_BACKENDS],
  provide: { webgpu: true },
  passWithNoTests: true,
}

const shaders = { ...wgslFiles(), enforce: 'pre' } as const

const deno: TestProjectConfiguration = {
  plugins: [shaders],
  // One thread for all files: Deno cannot end one and go on.
  test: {
    ...shared,
    name: 'Deno',
    pool: 'threads',
    maxWorkers: 1,
    isolate: false,
    exclude: IN_PAGES,
    setupFiles: 'test/webgpu/setup-deno.ts',
  },
}

const chromium: TestProjectConfiguration = {
  plugins: [{ ...browserFiles(), enforce: 'pre' }, shaders],
  // Found in the middle of a run, they would load pages anew.
  optimizeDeps: {
    include: [
      'fast-check',
      '@tensorflow/tfjs',
      '@tensorflow/tfjs-core',
      '@tensorflow/tfjs-backend-webgpu',
      '@jax-js/jax',
    ],
    // Its loss is a module that it does not export.
    exclude: ['@genai-fi/nanogpt'],
  },
  test: {
    ...shared,
    name: 'Chromium',
    // One page for all files: they share devices, and the pipelines of these.
    isolate: false,
    fileParallelism: false,
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      provider: playwright({ launchOptions: LAUNCH_WEBGPU }),
      instances: [{ browser: 'chromium' }],
    },
  },
}

export default defineConfig({
  test: {
    reporters: ['default', './test/closing-line.ts'],
    projects: ['Deno' in globalThis ? deno : chromium],
  },
})
