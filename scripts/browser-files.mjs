/**
 * Files for browsers: `x.browser.ts` takes the place of `x.ts` beside it, and `x.browser.mjs` that of `x.mjs`. For
 * Rolldown, Rollup and Vite.
 */
import { existsSync } from 'node:fs'
import { dirname, resolve } from 'node:path'

export const browserFiles = () => ({
  name: 'browser-files',
  /** @param {string} source @param {string | undefined} importer */
  resolveId(source, importer) {
    const [, stem, ending] = /^(\..*)\.(m?js)$/.exec(source) ?? []
    if (importer === undefined || stem === undefined) return undefined
    const path = resolve(dirname(importer), `${stem}.browser.${ending === 'mjs' ? 'mjs' : 'ts'}`)
    return existsSync(path) && path !== importer ? path : undefined
  },
})
