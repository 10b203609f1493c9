/**
 * The published JavaScript: ESM and CommonJS with their types, one file per file of lib/.
 */
import { defineConfig } from 'tsdown'
import { recordSources } from './scripts/shipped.mjs'

export default defineConfig({
  entry: [
    'lib/index.ts',
    'lib/adapters/*/index.ts',
    'lib/data/index.ts',
    'lib/metrics/index.ts',
    'lib/cuda/index.ts',
    'lib/cli/index.ts',
  ],
  format: ['esm', 'cjs'],
  outDir: 'dist',
  target: 'node20.17',
  platform: 'node',
  unbundle: true,
  dts: true,
  shims: true,
  fixedExtension: true,
  clean: true,
  // By which scripts/check-package.mjs knows a dist that is older than its sources.
  onSuccess: () => recordSources('dist', ['dist'], 'dist'),
  // What the page of `plot` is made of; uPlot comes along so that users need not install it.
  copy: [
    { from: ['lib/cli/plot/page/*', 'node_modules/uplot/dist/uPlot.{iife.min.js,min.css}'], to: 'dist/cli/plot/page' },
    { from: 'node_modules/uplot/LICENSE', to: 'dist/cli/plot/page', rename: 'uPlot.LICENSE' },
  ],
})
