/**
 * Installed packages, on the server of browser/server.mjs, whose root is that of this package.
 */

/** Where `npm run bench:peers` installs. */
const PEERS = ['onnxruntime-web']

/**
 * The URL of a file of a package; of this one, with its own name.
 * @param {string} name
 * @param {string} file
 */
export function urlOf(name, file) {
  if (name === 'fused-preference-loss') return `/${file}`
  return `/${PEERS.includes(name) ? 'bench/peers/web/' : ''}node_modules/${name}/${file}`
}

/**
 * The version in a package's manifest; undefined if it is not installed.
 * @param {string} name
 * @returns {Promise<string | undefined>}
 */
export async function versionOf(name) {
  const response = await fetch(urlOf(name, 'package.json'))
  return response.ok ? /** @type {any} */ (await response.json()).version : undefined
}
