/**
 * Writes the worker of a page, worker.mjs with its peers, to bench/out/browser. What the package publishes for browsers is
 * not bundled, so that it is measured as it is.
 */
import { fileURLToPath } from 'node:url'
import { build } from 'rolldown'
import { browserFiles } from '../../scripts/browser-files.mjs'

const root = fileURLToPath(new URL('../../', import.meta.url))
const published = `${root}dist/browser/`

/** The package itself is served as it is. Its adapters are bundled, with the trainers that they import by name. */
export const ownFiles = {
  name: 'own-files',
  /** @param {string} source @param {string | undefined} importer */
  resolveId(source, importer) {
    if (source === 'fused-preference-loss') return served('index.mjs')
    const [, adapter] = /^fused-preference-loss\/(.+)$/.exec(source) ?? []
    if (adapter === 'webgpu') return served('webgpu/index.mjs')
    if (adapter) return `${published}adapters/${adapter}/index.mjs`
    if (importer?.startsWith(`${published}adapters/`)) {
      const [, file] = /^\.\.\/\.\.\/(.+)$/.exec(source) ?? []
      return file && served(file)
    }
    return undefined
  },
}

const served = (/** @type {string} */ file) => ({ id: `/dist/browser/${file}`, external: true })

export async function bundleWorker() {
  await build({
    input: `${root}bench/worker.mjs`,
    platform: 'browser',
    plugins: [ownFiles, browserFiles()],
    logLevel: 'silent',
    output: {
      dir: `${root}bench/out/browser`,
      format: 'esm',
      entryFileNames: '[name].mjs',
      chunkFileNames: '[name].mjs',
    },
  })
}
