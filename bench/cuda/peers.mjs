/** What other implementations make of the same cases on this machine's GPU: peers.py, as far as it comes. */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/**
 * What python3 has told of a task, and why it has told no more. It has so many seconds as PEERS_SECONDS says, if that is set.
 * @param {object} task cases or heads, as peers.py takes them
 * @returns {any[]}
 */
export function toldByPeers(task) {
  const script = fileURLToPath(new URL('peers.py', import.meta.url))
  const { status, stdout, stderr, error } = spawnSync('python3', [script], {
    input: JSON.stringify(task),
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    timeout: 1000 * Number(process.env.PEERS_SECONDS ?? 0),
  })
  const lines = (stdout ?? '').split('\n').filter((line) => line.startsWith('{') && line.endsWith('}'))
  const told = lines.map((line) => JSON.parse(line))
  if (status !== 0) told.push({ peer: 'python3', skipped: error?.message ?? stderr.trim().split('\n').at(-1) })
  return told
}
