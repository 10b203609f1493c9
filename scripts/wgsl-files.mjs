/**
 * Shaders: `import source from './x.wgsl'` is the text of the file, without its comments. For Rolldown, Rollup and Vite.
 */
import { readFileSync } from 'node:fs'

/** The code of a shader without comments, empty lines and indentation. */
export const withoutComments = (/** @type {string} */ code) =>
  code
    .split('\n')
    .map((line) => line.replace(/\/\/.*/, '').trim())
    .filter((line) => line !== '')
    .join('\n')

export const wgslFiles = () => ({
  name: 'wgsl-files',
  /** @param {string} id */
  load(id) {
    const [path] = id.split('?')
    if (!path.endsWith('.wgsl')) return undefined
    const code = `export default ${JSON.stringify(withoutComments(readFileSync(path, 'utf8')))}`
    return { code, moduleType: /** @type {const} */ ('js') }
  },
})
