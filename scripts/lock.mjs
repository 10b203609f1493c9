/**
 * A lock of this clone, for scripts that processes may start at the same time. It is a file that only one of them can
 * create and that names the process; one that was left by a process that has ended is taken over. Of Node.js alone, since
 * it is used before anything is installed.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { setTimeout } from 'node:timers/promises'

/** How often is looked whether the lock is free, in milliseconds. */
const PAUSE = 200
/** How long a file may be without its owner's name, which is written just after the file is made. */
const NAMELESS = 5000

/**
 * Runs `work` while no other process runs that of the same lock, which is then waited for.
 *
 * @param {string} path of the file
 * @param {() => void | Promise<void>} work
 * @param {(owner: string) => void} onWait is called once where another process holds the lock
 */
export async function withLock(path, work, onWait = () => {}) {
  const own = `${process.pid} ${hostname()}`
  for (let waited = 0; !create(path, own); waited += PAUSE) {
    const owner = read(path)
    if (owner !== undefined && isStale(owner, waited)) {
      takeAway(path, owner)
      continue
    }
    if (waited === 0 && owner !== undefined) onWait(owner)
    await setTimeout(PAUSE)
  }
  try {
    await work()
  } finally {
    if (read(path) === own) rmSync(path, { force: true })
  }
}

function create(/** @type {string} */ path, /** @type {string} */ owner) {
  try {
    writeFileSync(path, owner, { flag: 'wx' })
    return true
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'EEXIST') return false
    throw error
  }
}

/** The owner that the file names, undefined where there is no file. */
function read(/** @type {string} */ path) {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'ENOENT') return undefined
    throw error
  }
}

/** Whether the owner has ended. Of a process on another machine that is not known. */
function isStale(/** @type {string} */ owner, /** @type {number} */ waited) {
  if (owner === '') return waited > NAMELESS
  const [pid, host] = owner.split(' ')
  if (host !== hostname()) return false
  try {
    process.kill(Number(pid), 0)
    return Number(pid) === process.pid // numbers of processes are used again
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'ESRCH'
  }
}

/** Removes the file of an owner that has ended, of several processes that see it in one alone: by a new name. */
function takeAway(/** @type {string} */ path, /** @type {string} */ owner) {
  const name = `${path}.${process.pid}`
  try {
    renameSync(path, name)
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'ENOENT') return
    throw error
  }
  // Another process has been quicker, and this is its lock.
  if (read(name) !== owner) renameSync(name, path)
  else rmSync(name)
}
