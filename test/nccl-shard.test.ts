/**
 * A shared vocabulary over NCCL: device memory, prepared calls and graphs, what is sent, bad input, and ranks that fail.
 * Several processes, whose GPUs and NCCL the host plays. Golden cases are in nccl-golden.test.ts.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type Ended, onRanks, onThread } from './nccl-ranks.js'
import { TESTS_GPU } from './platform.js'
import { CUDA } from './support.js'

interface Told {
  code: string
  message: string
}

/** What the ranks told; they must all have ended well. */
function told<T>(ended: readonly Ended[]): T[] {
  const ends = ended.map(({ code, signal, stderr }) => ({ code, signal, stderr }))
  expect(ends).toEqual(ended.map(() => ({ code: 0, signal: null, stderr: '' })))
  return ended.map((each) => each.told as T)
}

/** Logits and an output layer, the same numbers on all ranks, and this rank's part of them. */
const MODEL = `
  const { crossEntropy, fusedPreferenceLoss, fusedLinearPreferenceLoss, linearSequenceLogProbs, linearCrossEntropy } = library
  let state = 7
  const next = () => { state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff; return (4 * state) / 0x7fffffff - 2 }
  const random = (length) => Float32Array.from({ length }, next)
  const [rows, width] = [12, 20]
  const part = (all, columns, [begin, end]) => {
    const out = new all.constructor((all.length / columns) * (end - begin))
    for (let r = 0; r * columns < all.length; r++) out.set(all.subarray(r * columns + begin, r * columns + end), r * (end - begin))
    return out
  }
  const model = (vocab, borders, at = rank) => {
    const own = [borders[at], borders[at + 1]]
    const [logits, other, hidden, weight, bias] = [rows * vocab, rows * vocab, rows * width, vocab * width, vocab].map(random)
    // Labels on both sides of the borders, and at both ends.
    const edges = [0, borders[1] - 1, Math.min(borders[1], vocab - 1), vocab - 1]
    const labels = Int32Array.from({ length: rows }, (_, i) => (i === 5 ? -100 : edges[i % 4]))
    return { own, vocab, count: own[1] - own[0], logits, other, hidden, weight, bias, labels, shard: { start: own[0], vocab } }
  }
  const inMemory = (data, count) => ({ data, shape: [4, 3, count] })
  const layer = ({ hidden, weight, bias, own }, put = (x) => x) => [
    { data: put(hidden), shape: [4, 3, width] },
    { data: put(weight.slice(own[0] * width, own[1] * width)), shape: [own[1] - own[0], width] },
    put(bias.slice(own[0], own[1])),
  ]
  const given = { reference: { chosen: [-20, -31], rejected: [-24, -30] } }
  const { createHash } = await import('node:crypto')
  const bytes = (x) => createHash('sha256').update(new Uint8Array(x.buffer, x.byteOffset, x.byteLength)).digest('hex')
  const fetched = (memory) => { const copy = new Float32Array(memory.byteLength / 4); memory.copyTo(copy); return copy }`

const onHost = !TESTS_GPU && CUDA.length > 0 && process.platform === 'linux'
/** On a GPU, one rank of the real NCCL. */
const onGpu = TESTS_GPU && existsSync(process.env.FUSED_PREFERENCE_LOSS_NCCL ?? '')

describe.runIf(onHost || onGpu)('a vocabulary that is shared over NCCL', () => {
  it.each(onGpu ? [1] : [2, 3])(
    '%i ranks have the bits of one process, and one sum of the gradients of hidden',
    async (size) => {
      const found = told<{ logits: string[][]; layer: string[][]; over: number[]; by: number[] }>(
        await onRanks(
          size,
          `${MODEL}
        const nccl = await connect()
        const stream = new Stream({ device: rank })
        // Logits in device memory, on a stream, in place. Columns begin with a segment; the last ones are rank 0's.
        const m = model(33100, [0, 16384, 32768].slice(0, size).concat(33100), size - 1 - rank)
        const results = async (logits, other, options) => {
          const outputs = ['tokenEntropies', 'tokenArgmax', 'tokenMeanLogits']
          const reference = { logits: other }
          const found = await fusedPreferenceLoss(logits, m.labels, { reference, gradient: 'in-place', outputs, ...options })
          return [Float64Array.of(found.loss), found.losses, ...outputs.map((name) => found[name])].map(bytes)
        }
        const mine = there(part(m.logits, m.vocab, m.own))
        const others = inMemory(there(part(m.other, m.vocab, m.own)), m.count)
        const shared = await results(inMemory(mine, m.count), others, { shard: m.shard, communicator: nccl, stream })
        const whole = there(m.logits)
        const wanted = await results(inMemory(whole, m.vocab), inMemory(there(m.other), m.vocab), {})
        shared.push(bytes(fetched(mine)))
        wanted.push(bytes(part(fetched(whole), m.vocab, m.own)))
        // An output layer, cut in that order, and the same ranks over the host; added to what is there.
        const l = model(50, [0, 23, 40].slice(0, size).concat(50), size - 1 - rank)
        const gradients = async (communicator) => {
          const [hidden, weight, bias] = layer(l, (array) => there(array))
          const own = { hidden: rows * width, weight: l.count * width, bias: l.count }
          const gradient = Object.fromEntries(Object.entries(own).map(([name, length]) => [name, there(new Float32Array(length).fill(2 ** -10))]))
          const options = { ...given, bias, shard: l.shard, communicator, gradient, accumulate: true, stream }
          const { loss } = await fusedLinearPreferenceLoss(hidden, weight, l.labels, options)
          const known = [Float64Array.of(loss), fetched(gradient.weight), fetched(gradient.bias)].map(bytes)
          return { known, sum: [...fetched(gradient.hidden)] }
        }
        const [over, by] = [await gradients(nccl), await gradients(host)]
        tell({ logits: [shared, wanted], layer: [over.known, by.known], over: over.sum, by: by.sum })
        nccl.dispose()`,
        ),
      )
      for (const { logits, layer, over } of found) {
        expect(logits[0]).toEqual(logits[1])
        expect(layer[0]).toEqual(layer[1])
        expect(over).toEqual(found[0].over)
      }
      const { over, by } = found[0]
      const largest = Math.max(...by.map(Math.abs))
      expect(largest).toBeGreaterThan(2 ** -10)
      for (const [i, x] of over.entries()) expect(Math.abs(x - by[i])).toBeLessThanOrEqual(largest * 2 ** -20)
      // Two numbers have one sum. Of three the host's is in the order of ranks, and NCCL's is not.
      expect(over.some((x, i) => x !== by[i])).toBe(size > 2)
    },
  )
})

/** A folder that goes with the test. */
function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'nccl-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return folder
}

describe.runIf(onHost)('a call over NCCL', () => {
  it('sends the bytes that the docs say: twice a header over the host, states and the gradient of hidden over NCCL', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nccl-'))
    try {
      const headers = told<number[]>(
        await onRanks(
          2,
          `${MODEL}
          const nccl = await connect()
          process.env.FPL_HOST_NCCL_LOG = '${folder}/' + rank
          const sent = []
          const gather = host.allGather
          host.allGather = (send, receive) => { sent.push(send.byteLength); return gather(send, receive) }
          const m = model(40000, [0, 36001, 40000])
          const options = { backend: 'cuda', shard: m.shard, communicator: nccl }
          const logits = inMemory(part(m.logits, m.vocab, m.own), m.count)
          const other = inMemory(part(m.other, m.vocab, m.own), m.count)
          const outputs = ['tokenEntropies', 'tokenArgmax']
          for (const segments of ['exact', 'merged']) {
            await fusedPreferenceLoss(logits, m.labels, { ...options, reference: { logits: other }, outputs, segments })
          }
          const [hidden, weight, bias] = layer(m)
          const sums = await linearSequenceLogProbs(hidden, weight, m.labels, { ...options, bias })
          await sums.backward([1, -1, 0.5, 2], { gradient: { hidden: true } })
          tell(sent)
          nccl.dispose()`,
        ),
      )
      // Seven tokens predict something; four of their labels are in the columns of rank 1, which has one segment of four.
      const [tokens, labels, width] = [7, 4, 20]
      const states = (segments: number, more: number) => tokens * segments * (16 + 8 * more) + 4 * labels
      const wanted = [
        `gather ${states(3, 2) + states(3, 0)}`,
        `gather ${states(1, 2) + states(1, 0)}`,
        `gather ${states(3, 0)}`,
        `reduce ${4 * width * tokens}`,
      ]
      for (const [rank, sent] of headers.entries()) {
        expect(
          readFileSync(join(folder, `${rank}`), 'utf8')
            .trimEnd()
            .split('\n'),
        ).toEqual(wanted)
        expect(sent).toEqual(Array(8).fill(320))
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('is prepared and captured in a graph, which keeps what it needs', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'nccl-'))
    try {
      const found = told<{ runs: string[][]; refused: Told[]; late: string }>(
        await onRanks(
          2,
          `${MODEL}
          const nccl = await connect()
          const m = model(17000, [0, 16384, 17000])
          const stream = new Stream({ device: rank })
          const data = there(part(m.logits, m.vocab, m.own))
          const logits = inMemory(data, m.count)
          const options = { ...given, shard: m.shard, communicator: nccl, gradient: true, stream }
          const prepare = (more) => prepareFusedPreferenceLoss(logits, m.labels, { ...options, ...more })
          const refused = [thrown(() => prepare())]
          const { existsSync, readFileSync, renameSync, writeFileSync } = await import('node:fs')
          let gathers = 0
          host.allGatherSync = (send, receive) => {
            const name = (r) => '${folder}/' + gathers + '.' + r
            writeFileSync(name(rank) + '.new', send)
            renameSync(name(rank) + '.new', name(rank))
            for (let r = 0; r < size; r++) {
              while (!existsSync(name(r)));
              receive.set(readFileSync(name(r)), r * send.byteLength)
            }
            gathers++
          }
          host.allReduceSumSync = host.barrierSync = () => {}
          refused.push(thrown(() => prepare({ communicator: host })))
          if (rank === 1) process.env.FPL_HOST_DEVICE_BYTES = '1000'
          refused.push(thrown(() => prepare()))
          delete process.env.FPL_HOST_DEVICE_BYTES
          const prepared = prepare()
          const graph = stream.capture(() => prepared.enqueue(stream))
          const wanted = prepareFusedPreferenceLoss(inMemory(there(m.logits), m.vocab), m.labels, { ...given, gradient: true, stream })
          const runs = []
          const run = () => {
            graph.launch(stream)
            wanted.enqueue(stream)
            const [a, b] = [prepared.read(stream), wanted.read(stream)]
            const whole = part(fetched(b.gradLogits.data), m.vocab, m.own)
            for (const { losses, chosenLogProbs, rejectedLogProbs } of [a, b]) runs.push([losses, chosenLogProbs, rejectedLogProbs].map(bytes).join())
            runs.push(bytes(fetched(a.gradLogits.data)), bytes(whole))
          }
          run()
          nccl.dispose()
          run()
          const late = thrown(() => prepare()).code
          graph.dispose()
          prepared.dispose()
          tell({ runs, refused, late })`,
        ),
      )
      for (const [rank, { runs, refused, late }] of found.entries()) {
        for (let i = 0; i < runs.length; i += 2) expect(runs[i]).toEqual(runs[i + 1])
        expect(runs).toHaveLength(8)
        expect(refused[0].message).toContain('options.communicator.allGatherSync is missing')
        expect(refused[1].message).toBe(
          'options.communicator of a prepared call must be one of fused-preference-loss/nccl',
        )
        expect(refused[2].code).toBe(rank === 1 ? 'ERR_CUDA' : 'ERR_RANK_FAILED')
        expect(late).toBe('ERR_DISPOSED')
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('a rank with bad input, too little memory or an aborted signal tells the others, and all go on', async () => {
    const [first, second] = told<(Told | undefined)[]>(
      await onRanks(
        2,
        `${MODEL}
        const nccl = await connect()
        const m = model(30, [0, 29, 30])
        const logits = inMemory(part(m.logits, m.vocab, m.own), m.count)
        const options = { ...given, backend: 'cuda', shard: m.shard, communicator: nccl, gradient: true }
        const call = (more, own = logits) => rejected(fusedPreferenceLoss(own, m.labels, { ...options, ...more }))
        const own = (more) => rank === 1 ? more : {}
        const other = (rank + 1) % size
        const outcomes = [
          await call({ backend: 'auto' }),
          await call(own({ device: 0 })),
          await call(own({ stream: new Stream({ device: 0 }) })),
          await call({ backend: undefined }, rank === 1 ? inMemory(there(logits.data, 0), m.count) : { ...logits, data: there(logits.data) }),
          await call(own({ communicator: host })),
          await call(own({ signal: AbortSignal.abort(new Error('no more')) })),
          await call(own({ segments: 'merged' })),
        ]
        if (rank === 1) process.env.FPL_HOST_DEVICE_BYTES = '100'
        outcomes.push(await call())
        delete process.env.FPL_HOST_DEVICE_BYTES
        // The pinned memory that its logits go through.
        const large = model(9000, [0, 30, 9000])
        const ofLarge = inMemory(part(large.logits, large.vocab, large.own), large.count)
        if (rank === 1) process.env.FPL_HOST_PINNED_BYTES = '100000'
        outcomes.push(await call({ shard: large.shard }, ofLarge))
        delete process.env.FPL_HOST_PINNED_BYTES
        // All labels of tokens that count are in the columns of rank 0; then no token counts.
        const { gradLogits } = await fusedPreferenceLoss(logits, new Int32Array(rows).fill(3), options)
        const none = await fusedLinearPreferenceLoss(...layer(m).slice(0, 2), new Int32Array(rows).fill(-100), options)
        outcomes.push(await call(), [gradLogits.data.some((x) => x !== 0), none.gradHidden.data.every((x) => x === 0)])
        if (rank === 1) nccl.abort()
        outcomes.push(await call())
        if (rank === 1) nccl.dispose()
        outcomes.push(await call())
        nccl.dispose()
        tell(outcomes)`,
        { NODE_NO_WARNINGS: '1' },
      ),
    )
    const failed = (message: string) => [
      'ERR_RANK_FAILED',
      expect.stringContaining(`rank 1 of 2 has failed: ${message}`),
    ]
    const outcomes = (all: (Told | undefined)[]) => all.map((each) => each && [each.code, each.message])
    const BAD = 'ERR_INVALID_ARG_VALUE'
    const onCpu = "options.communicator, which is NCCL's, is for the cuda backend; this call runs on 'cpu'"
    const device = 'options.communicator is on device 1, but the call runs on device 0'
    const stream = 'options.stream is on device 0, but the memory is on device 1'
    const differs = (rank: number) =>
      expect.stringContaining(`rank ${rank} differs from rank ${1 - rank} in the function it calls`)
    const memory = expect.stringContaining('cudaErrorMemoryAllocation')
    const own = outcomes(second)
    expect(own.slice(0, 9)).toEqual([
      [BAD, onCpu],
      [BAD, device],
      [BAD, stream],
      [BAD, device],
      [BAD, differs(0)],
      [undefined, 'no more'],
      [BAD, differs(0)],
      ['ERR_CUDA', memory],
      ['ERR_CUDA', memory],
    ])
    expect(outcomes(first).slice(0, 9)).toEqual([
      [BAD, onCpu],
      failed(`${BAD}: ${device}`),
      failed(`${BAD}: ${stream}`),
      failed(`${BAD}: ${device}`),
      [BAD, differs(1)],
      failed('no more'),
      [BAD, differs(1)],
      failed('ERR_CUDA: cudaErrorMemoryAllocation'),
      failed('ERR_CUDA: cudaErrorMemoryAllocation'),
    ])
    for (const all of [first, second]) expect(all.slice(9, 11)).toEqual([undefined, [true, true]])
    const aborted = 'this NCCL communicator cannot be used any more: it has been aborted'
    const disposed = 'this NcclCommunicator has been disposed of'
    expect(own.slice(11)).toEqual([
      ['ERR_NCCL', aborted],
      ['ERR_DISPOSED', disposed],
    ])
    // It may hear of it from the host or from NCCL; then from NCCL.
    expect(first[11]?.code).toMatch(/^ERR_(?:RANK_FAILED|NCCL)$/)
    expect(first[12]?.code).toBe('ERR_NCCL')
  })

  it.each([
    ['dies', `process.kill(process.pid, 'SIGKILL')`, 'remote process exited or there was a network error'],
    [
      'does not come',
      'await new Promise((resolve) => setTimeout(resolve, 6000))',
      'not all ranks have taken part within 2 seconds',
    ],
    ['fails on its GPU', `process.env.FPL_HOST_FAULT = 'token log-probs'`, 'remote process exited'],
  ])('a rank that %s in a call does not let the others wait', async (what, ends, reason) => {
    const ended = await onRanks(
      2,
      `${MODEL}
      const nccl = await connect({ timeout: 2 })
      const m = model(30, [0, 29, 30])
      const logits = { ...inMemory(part(m.logits, m.vocab, m.own), m.count), data: there(part(m.logits, m.vocab, m.own)) }
      if (rank === 1) {
        const gather = host.allGather
        let gathers = 0
        // All ranks have said that they are ready.
        host.allGather = async (...all) => { await gather(...all); if (++gathers === 2) { ${ends} } }
      }
      const options = { ...given, shard: m.shard, communicator: nccl, gradient: true }
      const begin = Date.now()
      const error = await rejected(fusedPreferenceLoss(logits, m.labels, options))
      tell([error, Date.now() - begin, thrown(() => nccl.allReduceSum(logits.data))])`,
    )
    const [error, milliseconds, later] = told<[Told, number, Told]>(ended.slice(0, 1))[0]
    expect([error.code, error.message]).toEqual(['ERR_NCCL', expect.stringContaining(reason)])
    expect(later.code).toBe('ERR_NCCL')
    expect(milliseconds).toBeLessThan(10_000)
    if (what === 'dies') return expect(ended[1].signal).toBe('SIGKILL')
    const [own] = told<[Told]>(ended.slice(1))[0]
    expect(own.code).toBe(what === 'does not come' ? 'ERR_NCCL' : 'ERR_CUDA')
  })

  /** A call on logits in device memory, in place, once its first gathering is enqueued: as the log of rank 0 shows. */
  const CALL = `
    const { existsSync } = await import('node:fs')
    const nccl = await connect({ timeout: 20 })
    const m = model(30, [0, 29, 30])
    const logits = inMemory(there(part(m.logits, m.vocab, m.own)), m.count)
    const options = { ...given, shard: m.shard, communicator: nccl, gradient: 'in-place' }
    const call = () => rejected(fusedPreferenceLoss(logits, m.labels, options))
    const begins = async () => { while (!existsSync(process.env.FPL_HOST_NCCL_LOG)) await new Promise((resolve) => setTimeout(resolve, 5)) }`

  it.each(['abort', 'the end of its thread'])('whose first gathering connects the ranks is ended by %s', async (by) => {
    const aborts = `${MODEL}${CALL}
      const calling = call()
      await begins()
      const begin = Date.now()
      nccl.abort()
      const milliseconds = Date.now() - begin
      tell([milliseconds, await calling])`
    const ends = onThread(`${MODEL}${CALL}
      void call()
      await begins()
      end()`)
    // It says that it is ready, and comes when rank 0 is done.
    const late = `${MODEL}${CALL}
      const gather = host.allGather
      let gathers = 0
      host.allGather = async (...all) => { await gather(...all); if (++gathers === 2) await host.barrier() }
      tell([0, await call()])`
    const first = `${by === 'abort' ? aborts : ends}
      await host.barrier()`
    const ended = await onRanks(2, `if (rank === 0) { ${first} } else { ${late} }`, {
      FPL_HOST_NCCL_CONNECTS: '1',
      FPL_HOST_NCCL_LOG: join(temporaryFolder(), 'log'),
    })
    const [[milliseconds, own], [, other]] = told<[number, Told?]>(ended)
    const aborted = 'this NCCL communicator cannot be used any more: it has been aborted'
    expect(own).toEqual(by === 'abort' ? { code: 'ERR_NCCL', name: 'Error', message: aborted } : undefined)
    expect(milliseconds).toBeLessThan(10_000)
    expect(other?.code).toBe('ERR_NCCL')
  })

  it('that is given up before it has read all rows sends no states', async () => {
    const folder = temporaryFolder()
    const call = (start: number, count: number) => `
      const nccl = await connect()
      const logits = inMemory(new Float32Array(12 * ${count}), ${count})
      const shard = { start: ${start}, vocab: 700001 }
      const call = () => fusedPreferenceLoss(logits, new Int32Array(12), { ...given, backend: 'cuda', shard, communicator: nccl, gradient: true })`
    const waits = `${MODEL}${call(0, 1)}
      tell(await rejected(call()))`
    // Its logits are more than the pinned memory holds that they go through.
    const ends = onThread(`${MODEL}${call(1, 700_000)}
      const gather = host.allGather
      let gathers = 0
      host.allGather = async (...all) => { await gather(...all); if (++gathers === 2) setTimeout(end, 400) }
      void call()`)
    const ended = await onRanks(
      2,
      `process.env.FPL_HOST_NCCL_LOG = '${folder}/' + rank
      if (rank === 0) { ${waits} } else { process.env.FPL_HOST_COPY_MS = '800'; ${ends} }`,
    )
    const [other] = told<Told>(ended)
    expect(other.code).toBe('ERR_NCCL')
    expect([0, 1].map((rank) => existsSync(join(folder, `${rank}`)))).toEqual([true, false])
  })

  it('that was made ready in vain leaves its memory to the next one', async () => {
    const [first] = told<[Told, Told | undefined, Told | undefined]>(
      await onRanks(
        2,
        `${MODEL}${CALL}
        const before = await call()
        if (rank === 1) process.env.FPL_HOST_DEVICE_BYTES = '100'
        const own = rank === 1 ? inMemory(part(m.logits, m.vocab, m.own), m.count) : logits
        const other = await rejected(fusedPreferenceLoss(own, m.labels, { ...options, backend: 'cuda' }))
        // What it has must do now.
        process.env.FPL_HOST_DEVICE_BYTES = rank === 0 ? '100' : ''
        tell([before, other, await call()])`,
      ),
    )
    expect(first).toEqual([
      undefined,
      expect.objectContaining({
        code: 'ERR_RANK_FAILED',
        message: expect.stringContaining('cudaErrorMemoryAllocation'),
      }),
      undefined,
    ])
  })
})
