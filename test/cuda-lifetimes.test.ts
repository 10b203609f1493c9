/**
 * Resources that a call, a prepared call or a graph needs live exactly as long as it does, even if their owners forget
 * them or dispose of them. The host's runtime ends any process that uses a freed address.
 */
import { describe, expect, it } from 'vitest'
import { cudaProcess } from './cuda-process.js'
import { CUDA } from './support.js'

const onHost = !process.env.FPL_TEST_GPU

describe.runIf(onHost && CUDA.length > 0)('a prepared call', () => {
  const OPTIONS =
    '{ shift: false, gradient: given.gradient, mask: given.mask, stream: given.stream, reference: { logits: { data: given.reference, shape } } }'
  const PREPARE = `
    const NAMES = ['logits', 'labels', 'mask', 'reference']
    const prepare = (given) =>
      prepareFusedPreferenceLoss({ data: given.logits, shape }, given.labels, ${OPTIONS})
    const all = () => ({
      ...Object.fromEntries(NAMES.map((name) => [name, there(host[name])])),
      gradient: new DeviceBuffer(host.logits.byteLength),
      stream: new Stream(),
    })
    // On the host, where nothing can be freed.
    const wanted = fusedPreferenceLossSync({ data: host.logits, shape }, host.labels, {
      shift: false, mask: [...host.mask], reference: { logits: { data: host.reference, shape } }, gradient: true, backend: 'cuda',
    })`

  it.each(['logits', 'labels', 'mask', 'reference', 'gradient', 'stream'])('keeps alive its %s', (name) => {
    const told = cudaProcess(`${PREPARE}
      const kept = all()
      const step = prepare({ ...kept, ...(() => { const { [${JSON.stringify(name)}]: one } = all(); return { [${JSON.stringify(name)}]: one } })() })
      await collected()
      step.enqueue()
      const { loss } = step.read()
      tell([loss === wanted.loss, Object.keys(kept).length])`)
    expect(told).toEqual([true, 6])
  })

  it.each(['logits', 'labels', 'mask', 'reference', 'gradient', 'stream'])(
    'defers that its %s is given back',
    (name) => {
      const told = cudaProcess(`${PREPARE}
      const given = all()
      const step = prepare(given)
      given.${name}.dispose()
      step.enqueue()
      tell([step.read().loss === wanted.loss, thrown(() => given.${name}.handle)?.code])`)
      expect(told).toEqual([true, 'ERR_DISPOSED'])
    },
  )

  it("keeps alive somebody else's memory, and so does a graph, a pending promise, and a copy", () => {
    const told = cudaProcess(`${PREPARE}
      // Frees its memory when it is forgotten.
      const owners = new FinalizationRegistry((buffer) => buffer.dispose())
      const foreign = (array) => {
        const buffer = there(array)
        const memory = { ptr: buffer.ptr, byteLength: buffer.byteLength }
        owners.register(memory, buffer)
        return memory
      }
      const kept = all()
      const call = { data: kept.logits, shape }
      const both = () => ({ ...kept, logits: foreign(host.logits), mask: foreign(host.mask) })
      const step = prepare(both())
      await collected()
      step.enqueue()
      const prepared = step.read().loss === wanted.loss
      const graph = (() => {
        const other = prepare(both())
        const captured = kept.stream.capture(() => other.enqueue())
        other.dispose()
        return captured
      })()
      await collected()
      graph.launch(kept.stream)
      kept.stream.synchronizeSync()
      const captured = same(read(kept.gradient, host.logits), wanted.gradLogits.data)
      const long = { data: new DeviceBuffer(4 * 2 * 2 * 400_000), shape: [2, 2, 400_000] }
      const occupied = fpl.sequenceLogProbs(long, Int32Array.of(1, 2, 3, 4), { shift: false })
      const pending = (() => {
        const { logits, mask } = both()
        return fpl.fusedPreferenceLoss({ data: logits, shape }, kept.labels, {
          shift: false, mask, reference: { logits: { data: kept.reference, shape } } })
      })()
      const copy = (() => kept.gradient.copyFromAsync(foreign(host.reference)))()
      await collected()
      await occupied
      await copy
      tell([prepared, captured, (await pending).loss === wanted.loss, same(read(kept.gradient, host.reference), host.reference)])`)
    expect(told).toEqual([true, true, true, true])
  })

  it('keeps nothing once it is disposed of, or forgotten', () => {
    const told = cudaProcess(
      `${PREPARE}
      await collected()
      const before = taken()
      let step = prepare(all())
      step.enqueue()
      await collected()
      const prepared = taken() - before
      const { workspaceBytes } = step
      step.dispose()
      await collected()
      const disposed = taken() - before
      step = prepare(all())
      await collected()
      const again = taken() - before
      step = undefined
      await collected()
      const buffers = 3 * host.logits.byteLength + host.labels.byteLength + host.mask.byteLength
      tell([prepared - buffers - workspaceBytes, disposed, again - prepared, taken() - before])`,
    )
    expect(told).toEqual([0, 0, 0, 0])
  })

  it('lives as long as a result of it in device memory, and is freed with the last one', () => {
    const told = cudaProcess(`${PREPARE}
      const before = taken()
      let kept = all()
      let results = (() => {
        const step = prepare(kept)
        step.enqueue()
        kept.stream.synchronizeSync()
        return step.buffers
      })()
      await collected()
      const loss = read(results.loss, new Float64Array(3))[0]
      // A graph that copies a result keeps it without the call's owner.
      const to = new DeviceBuffer(24)
      const stream = new Stream()
      const graph = stream.capture(() => to.copyFrom(results.loss, { stream }))
      results = kept = undefined
      await collected()
      graph.launch(stream)
      stream.synchronizeSync()
      const copied = read(to, new Float64Array(3))[0]
      to.dispose()
      const held = taken() > before
      graph.dispose()
      await collected()
      tell([loss === wanted.loss, copied === wanted.loss, held, taken() - before])`)
    expect(told).toEqual([true, true, true, 0])
  })

  it("keeps another library's array that was described to it", () => {
    const told = cudaProcess(`${PREPARE}
      const owners = new FinalizationRegistry((buffer) => buffer.dispose())
      const kept = all()
      const step = (() => {
        const buffer = there(host.logits)
        const array = { data: buffer.ptr, device: { device_type: 2, device_id: 0 }, dtype: { code: 2, bits: 32, lanes: 1 }, shape }
        owners.register(array, buffer)
        return prepare({ ...kept, logits: cuda.fromDLTensor(array).data })
      })()
      await collected()
      step.enqueue()
      // And the other way: memory stays as long as its description.
      const described = cuda.toDLTensor({ data: there(host.logits), shape, dtype: 'float32' })
      await collected()
      const back = fusedPreferenceLossSync(cuda.fromDLTensor(described), host.labels, { shift: false, mask: [...host.mask],
        reference: { logits: { data: kept.reference, shape } } })
      tell([step.read().loss === wanted.loss, back.loss === wanted.loss])`)
    expect(told).toEqual([true, true])
  })

  it('does not write to a result that has been transferred', () => {
    const told = cudaProcess(`${PREPARE}
      const step = prepare(all())
      step.enqueue()
      const { losses } = step.read()
      const moved = structuredClone(losses, { transfer: [losses.buffer] })
      const before = [...moved]
      step.enqueue()
      const error = thrown(() => step.read())
      tell([error?.code, error?.message, moved.every((x, i) => x === before[i])])`)
    expect(told).toEqual(['ERR_INVALID_ARG_VALUE', expect.stringContaining('detached'), true])
  })
})

describe.runIf(onHost && CUDA.length > 0)('a graph', () => {
  const CAPTURE = `
    const out = new DeviceBuffer(host.logits.byteLength)
    const stream = new Stream()
    const wanted = fusedPreferenceLossSync({ data: host.logits, shape }, host.labels, {
      shift: false, lossType: 'cpo', gradient: true, backend: 'cuda',
    }).gradLogits.data
    const prepare = () => prepareFusedPreferenceLoss({ data: there(host.logits), shape }, there(host.labels), {
      shift: false, lossType: 'cpo', gradient: out, stream,
    })
    const launch = (graph) => {
      out.copyFrom(host.logits)
      graph.launch(stream)
      stream.synchronizeSync()
      return same(read(out, host.logits), wanted)
    }`

  it('keeps alive the prepared call and what that needs', () => {
    const told = cudaProcess(`${CAPTURE}
      const graph = (() => { const step = prepare(); return stream.capture(() => step.enqueue()) })()
      await collected()
      tell(launch(graph))`)
    expect(told).toBe(true)
  })

  it('outlives the disposal of the prepared call, whose memory goes with it', () => {
    const told = cudaProcess(
      `${CAPTURE}
      const nothing = taken()
      let step = prepare()
      const graph = stream.capture(() => step.enqueue())
      step.dispose()
      const enqueued = thrown(() => step.enqueue())?.code
      const launched = launch(graph)
      step = undefined
      out.dispose()
      await collected()
      const kept = taken() > nothing
      graph.dispose()
      await collected()
      tell([enqueued, launched, kept, nothing - taken() - host.logits.byteLength])`,
    )
    expect(told).toEqual(['ERR_DISPOSED', true, true, 0])
  })

  it('keeps alive buffers it copies or fills, and events', () => {
    const told = cudaProcess(`
      const stream = new Stream()
      const [from, to] = [there(host.logits), new DeviceBuffer(host.logits.byteLength)]
      const [whole, filled, event] = [there(host.logits), there(host.labels), new Event()]
      const graph = stream.capture(() => {
        to.copyFrom(whole.slice(16), { byteOffset: 16, stream })
        to.copyFrom(from.slice(0, 16), { stream })
        filled.fill(1, { stream })
        event.record(stream)
      })
      for (const thing of [from, whole, filled, event]) thing.dispose()
      await collected()
      graph.launch(stream)
      stream.synchronizeSync()
      tell(same(read(to, host.logits), host.logits))`)
    expect(told).toBe(true)
  })

  it('is captured whatever is disposed of meanwhile', () => {
    const told = cudaProcess(`${CAPTURE}
      const [step, other] = [prepare(), prepare()]
      const [buffer, event] = [new DeviceBuffer(100_000), new Event()]
      const before = taken()
      const graph = stream.capture(() => {
        step.enqueue()
        for (const thing of [step, other, buffer, event]) thing.dispose()
      })
      const givenBack = before - taken()
      tell([launch(graph), givenBack >= 100_000 + other.workspaceBytes])`)
    expect(told).toEqual([true, true])
  })

  it('that cannot be captured: says why, and leaves the stream as it was', () => {
    const told = cudaProcess(`${CAPTURE}
      const step = prepare()
      const errors = [
        () => { throw new RangeError('mine') },
        () => { step.enqueue(); throw new RangeError('mine') },
        () => { new DeviceBuffer(64); },
        () => { new DeviceBuffer(64); throw new RangeError('not reached') },
        async () => { step.enqueue() },
        undefined,
      ].map((enqueue) => thrown(() => stream.capture(enqueue)))
      const graph = stream.capture(() => step.enqueue())
      tell([errors.map(({ code, name, message }) => [code ?? name, message]), launch(graph)])`)
    expect(told).toEqual([
      [
        ['RangeError', 'mine'],
        ['RangeError', 'mine'],
        ['ERR_CUDA', expect.stringContaining('allocating 64 bytes')],
        ['ERR_CUDA', expect.stringContaining('allocating 64 bytes')],
        ['ERR_INVALID_ARG_VALUE', expect.stringContaining('promise')],
        ['ERR_INVALID_ARG_TYPE', expect.stringContaining('a function')],
      ],
      true,
    ])
  })
})

describe.runIf(onHost && CUDA.length > 0)('a pending promise', () => {
  const CALLS = {
    fusedPreferenceLoss: `(b) => fpl.fusedPreferenceLoss({ data: b.logits, shape }, b.labels, {
      ...RUN, lossType: 'cpo', mask: b.mask, gradient: b.gradient }).then(({ loss }) => loss)`,
    'fusedPreferenceLoss, two models': `(b) => fpl.fusedPreferenceLoss({ data: b.logits, shape }, b.labels, {
      ...RUN, mask: b.mask, reference: { logits: { data: b.reference, shape } } }).then(({ loss }) => loss)`,
    sequenceLogProbs: `(b) => fpl.sequenceLogProbs({ data: b.logits, shape }, b.labels, {
      ...RUN, mask: b.mask }).then(({ logProbs }) => [...logProbs])`,
    fusedLinearPreferenceLoss: `(b) => fpl.fusedLinearPreferenceLoss(
      { data: b.hidden, shape: [B, T, D] }, { data: b.weight, shape: [V, D] }, b.labels,
      { ...RUN, lossType: 'cpo', mask: b.mask, bias: b.bias, gradient: { weight: b.gradient } }).then(({ loss }) => loss)`,
    linearSequenceLogProbs: `(b) => fpl.linearSequenceLogProbs(
      { data: b.hidden, shape: [B, T, D] }, { data: b.weight, shape: [V, D] }, b.labels,
      { ...RUN, mask: b.mask, bias: b.bias }).then(({ logProbs }) => [...logProbs])`,
  }
  const BUSY = `
    const all = (used) => {
      const made = { gradient: new DeviceBuffer(host.logits.byteLength) }
      for (const name of used) made[name] = there(host[name])
      return made
    }
    // Keeps the other thread busy for a while.
    const long = { data: new DeviceBuffer(4 * 2 * 2 * 400_000), shape: [2, 2, 400_000] }
    const busy = () => fpl.sequenceLogProbs(long, Int32Array.of(1, 2, 3, 4), { shift: false })`

  it.each(Object.entries(CALLS))('of %s keeps what it works on', (_, call) => {
    const used = Object.keys({
      logits: 0,
      labels: 0,
      mask: 0,
      reference: 0,
      hidden: 0,
      weight: 0,
      bias: 0,
      gradient: 0,
    })
    const told = cudaProcess(`${BUSY}
      const RUN = { shift: false, stream: new Stream() }
      const used = ${JSON.stringify(used)}.filter((name) => ${JSON.stringify(call)}.includes('b.' + name) && name !== 'gradient')
      const call = ${call}
      const kept = all(used)
      const wanted = await call(kept)
      const occupied = busy()
      const given = all(used)
      const disposed = call(given)
      for (const thing of [...Object.values(given), RUN.stream]) thing.dispose()
      RUN.stream = undefined
      const forgotten = call(all(used))
      await collected()
      await occupied
      tell([wanted, await disposed, await forgotten, Object.keys(kept).length > 3])`) as unknown[]
    const [wanted, disposed, forgotten] = told
    expect(disposed).toEqual(wanted)
    expect(forgotten).toEqual(wanted)
    expect(told[3]).toBe(true)
  })

  it('of a copy keeps both sides, and of a stream the stream', () => {
    const told = cudaProcess(`${BUSY}
      const occupied = busy()
      const target = new Float32Array(host.logits.length)
      const stream = new Stream()
      const [a, b] = [there(host.logits), there(host.reference)]
      const pending = [b.copyFromAsync(a, { stream }), b.copyToAsync(target, { stream }), stream.synchronize()]
      for (const thing of [a, b, stream]) thing.dispose()
      pending.push((() => there(host.reference).copyFromAsync(there(host.logits), { stream: new Stream() }))())
      pending.push((() => new Stream().synchronize())())
      const other = new Stream()
      pending.push(other.synchronize())
      other.dispose()
      await collected()
      await occupied
      await Promise.all(pending)
      tell(same(target, host.logits))`)
    expect(told).toBe(true)
  })
})

describe.runIf(onHost && CUDA.length > 0)('a backward pass that follows later', () => {
  it('has its tensors, unless somebody has disposed of them', () => {
    const told = cudaProcess(`
      const forward = (data, labels) => sequenceLogProbsSync({ data, shape }, labels, { shift: false })
      const wanted = forward(there(host.logits), there(host.labels)).backwardSync([1, 2, 3, 4]).gradLogits.data
      const sums = (() => forward(there(host.logits), there(host.labels)))()
      await collected()
      const kept = same(read(sums.backwardSync([1, 2, 3, 4]).gradLogits.data, host.logits), read(wanted, host.logits))
      const codes = []
      for (const name of ['logits', 'labels']) {
        const given = { logits: there(host.logits), labels: there(host.labels) }
        const later = forward(given.logits, given.labels)
        given[name].dispose()
        codes.push(thrown(() => later.backwardSync([1, 2, 3, 4]))?.code)
      }
      // Memory of somebody else's, who has freed it.
      const owner = there(host.logits)
      const later = forward({ ptr: owner.ptr, byteLength: owner.byteLength }, host.labels)
      owner.dispose()
      codes.push(thrown(() => later.backwardSync([1, 2, 3, 4]))?.code)
      tell([kept, codes])`)
    expect(told).toEqual([true, ['ERR_DISPOSED', 'ERR_DISPOSED', 'ERR_INVALID_ARG_VALUE']])
  })

  it('of an output layer too', () => {
    const told = cudaProcess(`
      const make = () => ({ hidden: there(host.hidden), weight: there(host.weight), bias: there(host.bias), labels: there(host.labels) })
      const forward = (b) => linearSequenceLogProbsSync(
        { data: b.hidden, shape: [B, T, D] }, { data: b.weight, shape: [V, D] }, b.labels, { shift: false, bias: b.bias })
      const weightOf = (sums) => read(sums.backwardSync([1, 2, 3, 4]).gradWeight.data, host.weight)
      const wanted = weightOf(forward(make()))
      const sums = (() => forward(make()))()
      await collected()
      const kept = same(weightOf(sums), wanted)
      const codes = ['hidden', 'weight', 'bias', 'labels'].map((name) => {
        const given = make()
        const later = forward(given)
        given[name].dispose()
        return thrown(() => later.backwardSync([1, 2, 3, 4]))?.code
      })
      // Memory of somebody else's, who has freed it.
      const given = make()
      const later = forward({ ...given, weight: { ptr: given.weight.ptr, byteLength: given.weight.byteLength } })
      given.weight.dispose()
      codes.push(thrown(() => later.backwardSync([1, 2, 3, 4]))?.code)
      tell([kept, codes])`)
    expect(told).toEqual([true, [...Array(4).fill('ERR_DISPOSED'), 'ERR_INVALID_ARG_VALUE']])
  })
})

describe.runIf(onHost && CUDA.length > 0)('memory of a GPU', () => {
  const MAJOR = `
    const { PerformanceObserver, constants } = await import('node:perf_hooks')
    const collections = []
    new PerformanceObserver((list) => {
      for (const { detail } of list.getEntries()) if (detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR) collections.push(detail.flags)
    }).observe({ entryTypes: ['gc'] })
    const pause = () => new Promise((resolve) => setTimeout(resolve, 2))`

  it('that is forgotten is looked for before there is none left', () => {
    // Keeps a third of the memory; the collector begins at a quarter.
    const told = cudaProcess(
      `${MAJOR}
      const kept = []
      for (let i = 0; i < 33; i++) kept.push(new DeviceBuffer(1_000_000))
      while (collections.length === 0) await pause()
      tell(kept.length)`,
      { FPL_HOST_DEVICE_BYTES: '100000000' },
    )
    expect(told).toBe(33)
  })

  it('that is forgotten is looked for once more when there is none left', () => {
    // After an allocation of four fifths has made the collector run, another of less than a fifth does not make it run
    // again.
    const told = cudaProcess(
      `${MAJOR}
      const kept = new DeviceBuffer(80_000_000)
      while (collections.length === 0) await pause()
      new DeviceBuffer(15_000_000)
      await pause()
      tell([new DeviceBuffer(15_000_000).byteLength, kept.byteLength, thrown(() => new DeviceBuffer(15_000_000)).code])`,
      { FPL_HOST_DEVICE_BYTES: '100000000' },
    )
    expect(told).toEqual([15_000_000, 80_000_000, 'ERR_CUDA'])
  })

  it('that is forgotten is given back, at the latest when there is none left', () => {
    // Six times the memory there is, through buffers, calls and prepared calls.
    const told = cudaProcess(
      `const logits = { data: new DeviceBuffer(4 * 4 * 500_000), shape: [2, 2, 500_000] }
      const labels = Int32Array.of(1, 2, 3, 4)
      const options = { shift: false, lossType: 'cpo' }
      for (let i = 0; i < 100; i++) {
        new DeviceBuffer(6_000_000)
        await new Promise(setImmediate)
        if (i % 10 === 5) fusedPreferenceLossSync(logits, labels, { ...options, gradient: true })
        if (i % 10 === 9) prepareFusedPreferenceLoss(logits, labels, { ...options, gradient: new DeviceBuffer(4 * 4 * 500_000) })
      }
      tell('enough')`,
      { FPL_HOST_DEVICE_BYTES: '100000000' },
    )
    expect(told).toBe('enough')
  })

  it('does not make the collector stop everything while there is plenty', () => {
    const told = cudaProcess(`${MAJOR}
      const buffers = []
      for (let i = 0; i < 20; i++) {
        buffers.push(new DeviceBuffer(1 << 25))
        await pause()
      }
      await pause()
      for (const buffer of buffers) buffer.dispose()
      tell(collections.filter((flags) => flags & constants.NODE_PERFORMANCE_GC_FLAGS_ALL_EXTERNAL_MEMORY))`)
    // V8 may run one of its own, bit by bit, which has no flags.
    expect(told).toEqual([])
  })

  it('of a worker thread is given back when that ends', () => {
    const told = cudaProcess(
      `const { Worker } = await import('node:worker_threads')
      new DeviceBuffer(8).dispose()
      for (let i = 0; i < 3; i++) {
        const worker = new Worker(\`
          import { parentPort } from 'node:worker_threads'
          import { DeviceBuffer } from \${JSON.stringify(cudaUrl)}
          globalThis.kept = new DeviceBuffer(900_000)
          parentPort.postMessage('there')\`, { eval: true })
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        await worker.terminate()
      }
      tell(new DeviceBuffer(900_000).byteLength)`,
      { FPL_HOST_DEVICE_BYTES: '1000000' },
    )
    expect(told).toBe(900_000)
  })
})
