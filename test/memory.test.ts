/**
 * The memory that a call needs besides its arguments: an in-place call on a batch of realistic size, in its own
 * process. Uses dist.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { DIST } from './support.js'

const execute = promisify(execFile)

const BATCH = [8, 512, 50_257]

/** Prints, for each call, by how many bytes it has raised the process's peak. */
const SCRIPT = `
  import { readFileSync, writeFileSync } from 'node:fs'
  import { fusedPreferenceLoss, fusedPreferenceLossSync, getBackends } from ${JSON.stringify(DIST.href)}

  if (!getBackends().cpu.available) throw new Error(getBackends().cpu.reason)
  const status = (name) => 1024 * Number(new RegExp(name + ':\\\\s*(\\\\d+) kB').exec(readFileSync('/proc/self/status', 'utf8'))[1])
  const linux = process.platform === 'linux'
  // Elsewhere the peak since the start; the arrays, all touched by now, are what makes it.
  const peak = () => (linux ? status('VmHWM') : 1024 * process.resourceUsage().maxRSS)
  // Buffers are freed a while after they are collected.
  const settle = async () => {
    for (let i = 0; i < 5; i++) {
      gc()
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    if (!linux) return peak()
    writeFileSync('/proc/self/clear_refs', '5')
    return status('VmRSS')
  }

  const [batch, time, vocab] = JSON.parse(process.argv[1])
  const data = new Float32Array(batch * time * vocab)
  for (let i = 0; i < vocab; i++) data[i] = ((i * 7919) % 4099) / 512
  for (let filled = vocab; filled < data.length; filled *= 2) data.copyWithin(filled, 0, Math.min(filled, data.length - filled))
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i * 31) % vocab)
  const pairs = batch / 2
  const reference = { chosen: new Float64Array(pairs), rejected: new Float64Array(pairs) }

  // Threads, code that is compiled late, and the heap's growth.
  const small = { data: data.slice(0, batch * time * 20), shape: [batch, time, 20] }
  const few = labels.map((label) => label % 20)
  for (let i = 0; i < 30; i++) {
    fusedPreferenceLossSync(small, few, { reference, gradient: true })
    await fusedPreferenceLoss(small, few, { reference, gradient: true })
  }
  const options = { reference, gradient: 'in-place' }
  for (const run of ['sync', 'async']) {
    const before = await settle()
    const shape = [batch, time, vocab]
    const result = run === 'sync' ? fusedPreferenceLossSync({ data, shape }, labels, options) : await fusedPreferenceLoss({ data, shape }, labels, options)
    console.log(run, peak() - before, result.gradLogits.data === data, data[5] !== 0 && data.at(-1) === 0)
  }
  // Of a call that does allocate, the peak must tell.
  const before = await settle()
  const part = { data: data.subarray(0, batch * time * 1000), shape: [batch, time, 1000] }
  fusedPreferenceLossSync(part, labels.map((label) => label % 1000), { reference, gradient: true })
  console.log('new', peak() - before)
`

test('an in-place call on [8, 512, 50257] float32 needs less than 1 MiB beside its arguments', async () => {
  const given = ['--expose-gc', '--input-type=module', '-e', SCRIPT, JSON.stringify(BATCH)]
  const { stdout } = await execute(process.execPath, given)
  const lines = stdout.trim().split('\n')
  const [sync, async, fresh] = lines.map((line) => line.split(' '))
  expect(sync).toEqual(['sync', expect.any(String), 'true', 'true'])
  expect(async).toEqual(['async', expect.any(String), 'true', 'true'])
  expect(Number(sync[1])).toBeLessThan(2 ** 20)
  expect(Number(async[1])).toBeLessThan(2 ** 20)
  // The measurement does detect allocations: 16 MB here.
  expect(Number(fresh[1])).toBeGreaterThan(15e6)
})

/** Prints by how much the loss and all gradients of an output layer raise the peak, its logits taking 311 MB. */
const HEAD = `
  import { readFileSync } from 'node:fs'
  import { fusedLinearPreferenceLossSync } from ${JSON.stringify(DIST.href)}
  const [batch, time, width, vocab] = [4, 128, 96, 151_936]
  const fill = (length) => Float32Array.from({ length }, (_, i) => ((i * 7919) % 4099) / 40_000)
  const hidden = { data: fill(batch * time * width), shape: [batch, time, width] }
  const weight = { data: fill(vocab * width), shape: [vocab, width] }
  const gradient = { hidden: fill(batch * time * width), weight: fill(vocab * width) }
  const labels = Int32Array.from({ length: batch * time }, (_, i) => i)
  const peak = () =>
    process.platform === 'linux'
      ? 1024 * Number(/VmHWM:\\s*(\\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))[1])
      : 1024 * process.resourceUsage().maxRSS
  const before = peak()
  const { loss } = fusedLinearPreferenceLossSync(hidden, weight, labels, { shift: false, lossType: 'cpo', gradient })
  console.log(peak() - before, loss)
`

test('an output layer of 151 936 words needs less than 64 MiB beside its arguments, and never its logits', async () => {
  const { stdout } = await execute(process.execPath, ['--input-type=module', '-e', HEAD])
  const [bytes, loss] = stdout.split(' ').map(Number)
  expect(loss).toBeGreaterThan(0)
  expect(bytes).toBeLessThan(64 * 2 ** 20)
}, 60_000)

/** Prints the page faults of a forward over untouched memory, for each mask of its 16 rows. */
const FAULTS = `
  import { sequenceLogProbsSync } from ${JSON.stringify(DIST.href)}
  const vocab = 4_000_000
  const labels = new Int32Array(16)
  const run = (mask) => {
    const data = new Float32Array(16 * vocab)
    const before = process.resourceUsage().minorPageFault
    sequenceLogProbsSync({ data, shape: [1, 16, vocab] }, labels, { shift: false, threads: 1, mask })
    return process.resourceUsage().minorPageFault - before
  }
  const masks = [new Uint8Array(16), new Uint8Array(16).fill(1, 4, 8), new Uint8Array(16).fill(1)]
  for (const mask of masks) run(mask)
  console.log(masks.map(run).join(' '))
`

// Windows does not count them.
test.skipIf(process.platform === 'win32')(
  'rows that predict nothing are not read: their pages are not even mapped',
  async () => {
    const { stdout } = await execute(process.execPath, ['--input-type=module', '-e', FAULTS])
    const [none, quarter, all] = stdout.split(' ').map(Number)
    // At least one fault for every 2 MB that are read.
    expect(all).toBeGreaterThan(120)
    expect(none).toBeLessThan(all / 8)
    expect(quarter).toBeLessThan(all / 2)
    expect(quarter).toBeGreaterThan(all / 8)
  },
  60_000,
)
