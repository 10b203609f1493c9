/** @typedef {import('fused-preference-loss/distributed').Communicator} Communicator */

/**
 * A communicator of this process alone.
 * @type {Communicator}
 */
export const ALONE = {
  rank: 0,
  size: 1,
  allGather: async (send, receive) => receive.set(send),
  allGatherSync: (send, receive) => receive.set(send),
  allReduceSum: async () => {},
  allReduceSumSync() {},
  barrier: async () => {},
  barrierSync() {},
  abort: (code = 1) => process.exit(code),
}
