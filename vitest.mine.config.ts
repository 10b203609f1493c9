import { playwright } from '@vitest/browser-playwright'
import { defineConfig } from 'vitest/config'
import { browserFiles } from './scripts/browser-files.mjs'
import { LAUNCH_WEBGPU } from './scripts/chromium.mjs'
import { wgslFiles } from './scripts/wgsl-files.mjs'
export default defineConfig({
  plugins: [{ ...browserFiles(), enforce: 'pre' }, { ...wgslFiles(), enforce: 'pre' }],
  optimizeDeps: { include: ['fast-check'] },
  test: { testTimeout: 120_000, include: ['test/webgpu/*.test.ts'], provide: { webgpu: true },
    browser: { enabled: true, headless: true, screenshotFailures: false, provider: playwright({ launchOptions: LAUNCH_WEBGPU }), instances: [{ browser: 'chromium' }] } },
})
