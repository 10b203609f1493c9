import { playwright } from '@vitest/browser-playwright'
import { defineConfig } from 'vitest/config'
import { browserFiles } from './scripts/browser-files.mjs'
import { LAUNCH } from './scripts/chromium.mjs'

export default defineConfig({
  plugins: [{ ...browserFiles(), enforce: 'pre' }],
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
