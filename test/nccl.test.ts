import { expect, it } from 'vitest'
import { onRanks } from './nccl-ranks.js'
it('tries', async () => {
  const found = await onRanks(2, `
    const nccl = await connect()
    const stream = new Stream({ device: nccl.device })
    const send = there(Float32Array.of(rank + 1, 10 * rank))
    const receive = there(new Float32Array(2 * size))
    nccl.allGather(send, receive, { stream })
    nccl.allReduceSum(send, { stream })
    await nccl.synchronize(stream)
    tell([nccl.rank, nccl.size, nccl.device, read(receive, new Float32Array(2 * size)), read(send, new Float32Array(2))])
    nccl.dispose()
  `)
  console.log(JSON.stringify(found, null, 1))
  expect(1).toBe(1)
})
