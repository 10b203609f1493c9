/**
 * PyTorch through a python3 that has it: pytorch.py does the work and takes the times, this file talks to it.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Absent } from '../absent.mjs'

const SCRIPT = fileURLToPath(new URL('pytorch.py', import.meta.url))
/** Interpreters to try, in this order. The second is Debian's, which another python3 on the PATH may hide. */
export const PYTHONS = ['python3', '/usr/bin/python3']

/** A running pytorch.py. */
class Python {
  /** @param {string} command */
  constructor(command) {
    this.errors = ''
    this.child = spawn(command, ['-u', SCRIPT], { stdio: ['pipe', 'pipe', 'pipe'] })
    this.child.on('error', (error) => {
      this.errors = error.message
    })
    this.child.stdin.on('error', () => {})
    this.child.stderr.on('data', (data) => {
      this.errors = (this.errors + data).slice(-2000)
    })
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]()
  }

  /** The next line of its output. */
  async answer() {
    const { value, done } = await this.lines.next()
    if (done) throw new Error(this.errors.trim().split('\n').at(-1) || 'python ended')
    const answer = JSON.parse(value)
    if (answer.absent) throw new Absent(answer.failure)
    if (answer.failure) throw new Error(answer.failure)
    return answer
  }

  ask(/** @type {object} */ request) {
    this.child.stdin.write(`${JSON.stringify(request)}\n`)
    return this.answer()
  }

  async send(/** @type {ArrayBufferView} */ { buffer, byteOffset, byteLength }) {
    if (!this.child.stdin.write(new Uint8Array(buffer, byteOffset, byteLength))) await once(this.child.stdin, 'drain')
  }
}

/** The first python that imports torch. */
async function findPython() {
  const reasons = []
  for (const command of PYTHONS) {
    const python = new Python(command)
    try {
      const { version } = await python.answer()
      return { python, version }
    } catch (error) {
      reasons.push(`${command}: ${/** @type {Error} */ (error).message}`)
    }
  }
  throw new Absent(`no python with torch (${reasons.join('; ')})`)
}

/**
 * @param {'eager' | 'cross-entropy' | 'compile'} formulation
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'quick'>} words
 * @returns {import('./index.mjs').Peer}
 */
function torchPeer(formulation, words) {
  /** @type {Python} */
  let python
  return {
    ...words,
    ownCopies: true,
    linear: true,

    supports({ stage }) {
      return stage !== 'loss' || formulation === 'eager' || 'the loss alone is the same in every formulation'
    },

    async prepare(workload, inputs, { threads }) {
      const found = await findPython()
      python = found.python
      this.version = found.version
      this.pid = python.child.pid
      const { logits, weight, labels, reference, positions, policy, copies } = inputs
      const ready = python.ask({
        command: 'prepare',
        formulation,
        workload,
        threads,
        copies,
        labels: [...labels],
        chosen: [...reference.chosen],
        rejected: [...reference.rejected],
        policy: policy && [...policy.chosen, ...policy.rejected],
        positions,
      })
      // It may fail before it has read them.
      const sent = logits.length > 0 ? python.send(logits[0]).then(() => weight && python.send(weight)) : undefined
      const { note } = await Promise.race([ready, Promise.resolve(sent).then(() => ready)])
      this.note = note
    },

    run: async (copy) => (await python.ask({ command: 'run', copy })).seconds,
    result: () => python.ask({ command: 'result' }),
  }
}

export const torchEager = torchPeer('eager', { name: 'torch-eager', title: 'PyTorch, eager as commonly written' })
export const torchCrossEntropy = torchPeer('cross-entropy', {
  name: 'torch-cross-entropy',
  title: 'PyTorch, through cross_entropy',
  quick: true,
})
export const torchCompile = torchPeer('compile', { name: 'torch-compile', title: 'PyTorch, torch.compile' })
