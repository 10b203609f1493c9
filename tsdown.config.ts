/**
 * The published JavaScript: ESM and CommonJS with their types, one file per file of lib/, and ESM for browsers, in few
 * files. The command line is ESM alone, as nothing loads it with `require`.
 */
import { defineConfig, type UserConfig } from 'tsdown'
import { browserFiles } from './scripts/browser-files.mjs'
import { recordSources } from './scripts/shipped.mjs'
import { wgslFiles } from './scripts/wgsl-files.mjs'

const library = [
  'lib/index.ts',
  'lib/adapters/*/index.ts',
  'lib/data/index.ts',
  'lib/metrics/index.ts',
  'lib/distributed/index.ts',
  'lib/cuda/index.ts',
  'lib/distributed/mpi/index.ts',
  'lib/distributed/nccl/index.ts',
  'lib/webgpu/index.ts',
]

/** Of these, the ones that browsers have no use for. */
const onlyNode = ['lib/cuda/index.ts', 'lib/distributed/mpi/index.ts', 'lib/distributed/nccl/index.ts']

/** The compiler puts a comment of one line behind the member before it, where editors do not take it for the next one's. */
const docstrings = {
  name: 'docstrings',
  generateBundle(_: unknown, bundle: Record<string, { type: string; code?: string }>) {
    for (const [name, output] of Object.entries(bundle)) {
      if (/\.d\.[cm]ts$/.test(name)) output.code = output.code?.replaceAll(/; (\/\*\* .* \*\/)$/gm, ';\n  $1')
    }
  },
}

const shared: UserConfig = {
  plugins: [docstrings, wgslFiles()],
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
}

export default defineConfig([
  {
    ...shared,
    entry: [...library, 'lib/cli/index.ts'],
    format: 'esm',
    // What the page of `plot` is made of; uPlot comes along so that users need not install it.
    copy: [
      { from: 'lib/backends/wasm/worker.mjs', to: 'dist/backends/wasm' },
      {
        from: ['lib/cli/plot/page/*', 'node_modules/uplot/dist/uPlot.{iife.min.js,min.css}'],
        to: 'dist/cli/plot/page',
      },
      { from: 'node_modules/uplot/LICENSE', to: 'dist/cli/plot/page', rename: 'uPlot.LICENSE' },
    ],
  },
  { ...shared, entry: library, format: 'cjs' },
  {
    ...shared,
    entry: library.filter((path) => !onlyNode.includes(path)),
    format: 'esm',
    plugins: [browserFiles(), wgslFiles()],
    outDir: 'dist/browser',
    target: 'es2022',
    platform: 'browser',
    unbundle: false,
    dts: false,
    shims: false,
    // What is shared lies in a folder as deep as lib/backends/wasm, whose files name others by relative URLs.
    outputOptions: {
      chunkFileNames: 'shared/[name].mjs',
      codeSplitting: {
        groups: [
          { name: 'check', test: /lib[\\/](check|errors)/, priority: 1 },
          { name: 'core', test: /lib[\\/](backends|call|functions|options|job)/ },
        ],
      },
    },
    copy: [{ from: 'lib/backends/wasm/worker.mjs', to: 'dist/browser/shared' }],
  },
])
