/**
 * `bench`: measures the package on this machine against the time in which its memory moves the same bytes once.
 * A short measurement for users; comparisons with other packages are made in the repository (`npm run bench`).
 */
import { findAddon } from '../backends/cpu/index.js'
import { fusedPreferenceLossSync, getBackends, sequenceLogProbsSync } from '../index.js'
import { readArguments, readInteger } from './arguments.js'
import type { Command, Option } from './command.js'

const [BATCH, TIME] = [4, 64]
const VOCABULARIES = ['32000', '128256']
/** Below the range, the overhead of a call exceeds the memory's time; above it, one tensor takes more than 1 GB. */
const VOCAB_LIMITS = [1000, 1_000_000] as const
const THREAD_LIMITS = [1, 1024] as const
const RUNS = 7

const OPTIONS = {
  json: { type: 'boolean', help: 'print one JSON object' },
  threads: { type: 'string', value: 'N', help: 'use N threads; by default as many as the process may use' },
  vocab: {
    ...{ type: 'string', multiple: true, default: VOCABULARIES, value: 'N' },
    help: `measure a vocabulary of N, once per --vocab; ${VOCABULARIES.join(' and ')} by default`,
  },
} satisfies Record<string, Option>

interface Result {
  shape: number[]
  megabytes: number
  forward: Times
  step: Times
}

/** Milliseconds of a call, and of its bytes at the measured bandwidth where there is a native binary to measure it. */
interface Times {
  milliseconds: number
  floor?: number
}

export const command: Command = {
  summary: 'measure this machine: forward pass and full step, against its memory',
  options: OPTIONS,
  run(args) {
    const { values } = readArguments(args, OPTIONS)
    const threads = values.threads === undefined ? undefined : readInteger('threads', values.threads, ...THREAD_LIMITS)
    const vocabularies = values.vocab.map((vocab) => readInteger('vocab', vocab, ...VOCAB_LIMITS))
    const { cpu } = getBackends()
    const results = vocabularies.map((vocab) => measure([BATCH, TIME, vocab], threads))
    const used = threads ?? cpu.threads
    if (values.json) {
      console.log(JSON.stringify({ backend: cpu.available ? 'cpu' : 'js', threads: used, results }, null, 2))
      return 0
    }
    const set = cpu.available
      ? `cpu backend, ${cpu.instructionSet}, ${used} ${used === 1 ? 'thread' : 'threads'}`
      : 'js backend'
    console.log(`float32, ${set}; median of ${RUNS} runs, and its multiple of the memory's own time\n`)
    const columns = ['logits', 'MB', 'log-probs', 'DPO: loss and gradient']
    console.log(line(columns))
    for (const { shape, megabytes, forward, step } of results) {
      console.log(line([`[${shape.join(', ')}]`, megabytes.toFixed(0), cell(forward), cell(step)]))
    }
    return 0
  },
}

function measure(shape: number[], threads: number | undefined): Result {
  const [batch, time, vocab] = shape
  const data = new Float32Array(batch * time * vocab)
  for (let i = 0; i < vocab; i++) data[i] = 8 * Math.sin(i * 0.7)
  for (let row = 1; row < batch * time; row++) data.copyWithin(row * vocab, 0, vocab)
  const gradient = new Float32Array(data.length)
  const logits = { data, shape }
  const labels = new Int32Array(batch * time).fill(11)
  const run = { shift: false, threads }

  const forward = median(() => sequenceLogProbsSync(logits, labels, run))
  const step = median(() => fusedPreferenceLossSync(logits, labels, { ...run, referenceFree: true, gradient }))

  const found = findAddon()
  const result: Result = {
    shape,
    megabytes: data.byteLength / 1e6,
    forward: { milliseconds: forward },
    step: { milliseconds: step },
  }
  if ('addon' in found) {
    const pool = threads ?? getBackends().cpu.threads ?? 1
    const sweep = (name: string, target?: ArrayBuffer) =>
      median(() => found.addon.bandwidth(name, data.buffer, target, pool))
    const read = sweep('read')
    result.forward.floor = read
    // The logits are read for the loss, then read again while the gradient is written to its own array.
    result.step.floor = read + Math.min(sweep('copy', gradient.buffer), sweep('copyStreaming', gradient.buffer))
  }
  return result
}

/** Median milliseconds, after a first call that faults the memory in. */
function median(call: () => void): number {
  call()
  const times = Array.from({ length: RUNS }, () => {
    const start = performance.now()
    call()
    return performance.now() - start
  })
  return times.sort((a, b) => a - b)[Math.floor(RUNS / 2)]
}

function cell({ milliseconds, floor }: Times): string {
  const multiple = floor === undefined ? '' : ` (× ${(milliseconds / floor).toFixed(2)})`
  return `${milliseconds.toFixed(1)} ms${multiple}`
}

function line([first, ...rest]: string[]): string {
  return first.padEnd(18) + rest.map((text, i) => text.padStart(i === 0 ? 6 : 26)).join('')
}
