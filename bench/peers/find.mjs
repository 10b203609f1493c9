/**
 * Finds a peer by its name.
 *
 * @param {import('./index.mjs').Peer[]} peers
 * @param {import('./index.mjs').Peer[]} meters
 * @param {string} name
 */
export function findIn(peers, meters, name) {
  const found = [...peers, ...meters].find((peer) => peer.name === name)
  if (found) return found
  throw new RangeError(`no peer is called '${name}'\npeers: ${peers.map((peer) => peer.name).join(', ')}`)
}
