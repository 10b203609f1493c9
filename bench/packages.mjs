/**
 * Installed packages: where their files are, and their versions.
 */
import { readFileSync } from 'node:fs'

/** Where `npm run bench:peers` installs. */
const PEERS = ['onnxruntime-web']

/**
 * The URL of a file of a package; of this one, with its own name.
 * @param {string} name
 * @param {string} file
 */
export function urlOf(name, file) {
  if (name === 'fused-preference-loss') return new URL(`../${file}`, import.meta.url).href
  const folder = PEERS.includes(name) ? 'peers/web/node_modules' : '../node_modules'
  return new URL(`${folder}/${name}/${file}`, import.meta.url).href
}

/**
 * The version in a package's manifest; undefined if it is not installed.
 * @param {string} name
 * @returns {Promise<string | undefined>}
 */
export async function versionOf(name) {
  try {
    return JSON.parse(readFileSync(new URL(urlOf(name, 'package.json')), 'utf8')).version
  } catch {
    return undefined
  }
}
