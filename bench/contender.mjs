/**
 * The parent's handle on one worker process: starts it, sends it one request at a time, stops it while another is
 * measured, and turns its death into an error with a reason.
 */
import { fork } from 'node:child_process'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import { Absent } from './absent.mjs'

/**
 * @param {string} peerName
 * @param {number} patience seconds to wait for an answer
 */
export const startProcess = (peerName, patience) => new ProcessContender(peerName, patience)

const WORKER = fileURLToPath(new URL('worker.mjs', import.meta.url))

/** Stopped processes, which would outlive this one: they do not hear that it has ended. @type {Set<ProcessContender>} */
const paused = new Set()
const CAN_PAUSE = process.platform !== 'win32'

process.on('exit', () => {
  for (const contender of paused) contender.stop()
})
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
  process.once(signal, () => process.exit(128 + constants.signals[signal]))
}

class ProcessContender {
  /**
   * @param {string} peerName
   * @param {number} patience seconds to wait for an answer
   */
  constructor(peerName, patience) {
    this.errors = ''
    this.patience = patience
    this.running = true
    /** A program of the peer's that does its work. @type {number | undefined} */
    this.helper = undefined
    this.child = fork(WORKER, [peerName], {
      execArgv: ['--expose-gc', '--max-old-space-size=8192'],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    this.child.stderr?.on('data', (data) => {
      this.errors = (this.errors + data).slice(-2000)
    })
    this.child.on('message', (/** @type {any} */ message) => {
      if (message.absent) this.waiting?.reject(new Absent(message.failure))
      else if ('failure' in message) this.waiting?.reject(new Error(message.failure))
      else this.waiting?.resolve(message.reply)
    })
    this.child.on('exit', (code, signal) => {
      this.running = false
      const why = this.errors.trim().split('\n').at(-1)
      this.waiting?.reject(new Error(`its process ended with ${signal ?? `code ${code}`}${why ? `: ${why}` : ''}`))
    })
  }

  /**
   * @param {object} message
   * @returns {Promise<any>}
   */
  ask(message) {
    /** @type {NodeJS.Timeout} */
    let timer
    const answer = new Promise((resolve, reject) => {
      this.waiting = { resolve, reject }
      timer = setTimeout(() => {
        reject(new Error(`no answer within ${this.patience} s`))
        this.stop()
      }, 1000 * this.patience)
      if (this.child.connected) this.child.send(message)
      else reject(new Error('its process has ended'))
    })
    return answer.finally(() => clearTimeout(timer))
  }

  /** Takes no processor time until `resume`. Not on Windows. */
  pause() {
    if (!CAN_PAUSE || !this.running) return
    paused.add(this)
    this.signal('SIGSTOP')
  }

  resume() {
    if (paused.delete(this)) this.signal('SIGCONT')
  }

  stop() {
    this.waiting = undefined
    this.running = false
    this.child.kill()
    this.resume()
  }

  /** @param {NodeJS.Signals} signal */
  signal(signal) {
    for (const pid of [this.child.pid, this.helper]) {
      try {
        if (pid !== undefined) process.kill(pid, signal)
      } catch {
        // It has ended.
      }
    }
  }
}
