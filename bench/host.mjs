/**
 * How a contender hears from its parent: in Node.js it is a process of its own.
 */

/** The peer to run. */
export const peerName = process.argv[2]

/** The process whose memory is watched, unless the peer has one of its own. */
export const ownProcess = process.pid

/** Seconds of processor time that all threads of this process have had. */
export function processorSeconds() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/**
 * Answers the parent's messages, one at a time.
 * @param {(message: any) => Promise<object>} answer
 */
export function serve(answer) {
  process.on('message', async (message) => process.send?.(await answer(message)))
  process.on('disconnect', () => process.exit())
}
