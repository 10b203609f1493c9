/**
 * The published JavaScript: ESM and CommonJS with their types, one file per file of lib/.
 */
import { defineConfig } from 'tsdown'

export default defineConfig({
  entry: ['lib/index.ts', 'lib/adapters/tfjs.ts', 'lib/data.ts', 'lib/metrics.ts', 'lib/cli/index.ts'],
  format: ['esm', 'cjs'],
  outDir: 'dist',
  target: 'node20.17',
  platform: 'node',
  unbundle: true,
  dts: true,
  shims: true,
  fixedExtension: true,
  clean: true,
})
