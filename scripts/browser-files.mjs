/**
 * Files for browsers: `x.browser.ts` takes the place of `x.ts` beside it. For Rolldown, Rollup and Vite.
 */
import { existsSync } from 'node:fs'
import { dirname, resolve } from 'node:path'

export const browserFiles = () => ({
  name: 'browser-files',
  /** @param {string} source @param {string | undefined} importer */
  resolveId(source, importer) {
    if (importer === undefined || !/^\..*\.js$/.test(source)) return undefined
    const path = resolve(dirname(importer), source).replace(/\.js$/, '.browser.ts')
    return existsSync(path) && path !== importer ? path : undefined
  },
})
