import { defineConfig } from 'vitest/config'
import { wgslFiles } from './scripts/wgsl-files.mjs'

export default defineConfig({
  plugins: [{ ...wgslFiles(), enforce: 'pre' }],
  test: {
    environment: 'node',
    testTimeout: 60_000,
    setupFiles: 'test/equal-arrays.ts',
    include: ['test/**/*.test.ts'],
    // They need WebGPU: npm run test:webgpu.
    exclude: ['test/webgpu/**'],
    reporters: ['default', './test/closing-line.ts'],
    typecheck: { enabled: true, include: ['test/types.test-d.ts'], tsconfig: './tsconfig.json' },
  },
})
