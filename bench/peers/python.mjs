/**
 * Peers in Python: a program of its own does the work and takes the times, this file finds an interpreter that has the library
 * and talks to the program. One JSON request a line goes to its standard input, one answer a line comes from its standard
 * output; logits follow the request that announces them, as raw bytes.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Absent } from '../absent.mjs'
import { ENTROPY_FACTOR } from '../cases.mjs'
import { activeRows, makeCoefficients } from '../inputs.mjs'

/**
 * Interpreters to try, in this order: that of `npm run bench:peers`, the PATH's, and Debian's, which another python3 on the
 * PATH may hide.
 */
export const PYTHONS = [fileURLToPath(new URL('python/bin/python3', import.meta.url)), 'python3', '/usr/bin/python3']

/**
 * With the defaults of glibc, memory of this size goes back to the system after each call, and page faults take most of the
 * next one. PyTorch's tuning guide advises an allocator that keeps it.
 */
const KEEPS_MEMORY = {
  MALLOC_MMAP_THRESHOLD_: '8000000000',
  MALLOC_TRIM_THRESHOLD_: '16000000000',
  MALLOC_TOP_PAD_: '1000000000',
}

/** A running program. */
class Python {
  /** @param {string} command @param {string} script @param {Record<string, string>} environment */
  constructor(command, script, environment) {
    this.errors = ''
    this.child = spawn(command, ['-u', fileURLToPath(new URL(script, import.meta.url))], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...KEEPS_MEMORY, ...environment },
    })
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

/**
 * The first python whose program says the version of the library.
 * @param {string} script
 * @param {string} library
 * @param {Record<string, string>} environment
 */
async function findPython(script, library, environment) {
  const reasons = []
  for (const command of PYTHONS) {
    const python = new Python(command, script, environment)
    try {
      const { versions } = await python.answer()
      if (!versions[library]) throw new Error(`no ${library}`)
      return { python, version: versions[library] }
    } catch (error) {
      python.child.kill()
      reasons.push(`${command}: ${/** @type {Error} */ (error).message}`)
    }
  }
  throw new Absent(`no python with ${library}; npm run bench:peers installs it (${reasons.join('; ')})`)
}

/**
 * @param {{ script: string, library: string, formulation: string, environment?: Record<string, string> }} program a file of
 *   this folder, the library that it needs, how it writes the computation, and variables of its environment
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'quick' | 'compiles' | 'supports'>} peer
 * @returns {import('./index.mjs').Peer}
 */
export function pythonPeer({ script, library, formulation, environment = {} }, peer) {
  /** @type {Python} */
  let python
  return {
    ...peer,
    inPython: true,
    ownCopies: true,
    linear: true,

    async prepare(workload, inputs, { threads }) {
      if (!python) {
        const found = await findPython(script, library, environment)
        python = found.python
        this.version = found.version
      }
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
        coefficients: workload.stage.endsWith('tokens') ? [...makeCoefficients(workload)] : [],
        entropySlope: -ENTROPY_FACTOR / Math.max(1, activeRows(workload)),
      })
      // It may fail before it has read them.
      const sent = logits.length > 0 ? python.send(logits[0]).then(() => weight && python.send(weight)) : undefined
      const { note } = await Promise.race([ready, Promise.resolve(sent).then(() => ready)])
      this.note = note
    },

    run: (copy) => python.ask({ command: 'run', copy }),
    result: () => python.ask({ command: 'result' }),
  }
}
