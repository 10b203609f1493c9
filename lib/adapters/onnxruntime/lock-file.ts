/**
 * A lock on a file: a second file beside it, which only one call at a time can create. It names its owner, so that a
 * lock left by a crash can be told from a lock that is held.
 */
import { randomUUID } from 'node:crypto'
import { readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { dirname } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { invalidValue } from '../../errors.js'

/** A lock that is held. */
export interface Lock {
  /** Throws when the lock file has been deleted or replaced. */
  check(): Promise<void>
  release(): Promise<void>
}

/** The owner of a lock, as the lock file records it. */
interface Owner {
  pid: number
  host: string
  /** When the process started, in milliseconds: process ids are reused, and in containers they are always the same. */
  started: number
  /** Distinguishes calls of one process. */
  id: string
}

// The start time is a difference of two clocks, hence inexact; another process with the same id starts later than this.
const CLOCKS_DIFFER = 1000

// A lock file is empty between its creation and the write of its owner. One that stays empty was left by a crash. And a
// process that has been killed, as mpirun kills the ranks of a job, is there for a moment longer.
const PAUSE = 20
const MOST_PAUSES = 150

/**
 * Locks a file, which need not exist. The lock of a process of this machine that has ended is taken over.
 *
 * @throws TypeError `ERR_INVALID_ARG_VALUE` when it is held or the folder does not exist; the errors of the file
 *   system.
 */
export async function lockFile(path: string): Promise<Lock> {
  const file = `${await realpath(path).catch(() => path)}.lock`
  const started = Math.round(Date.now() - 1000 * process.uptime())
  const owner: Owner = { pid: process.pid, host: hostname(), started, id: randomUUID() }
  const text = JSON.stringify(owner)
  let pauses = 0
  while (!(await create(file, text))) {
    const found = await read(file)
    if (found === undefined) continue
    if (found === '' && pauses++ < MOST_PAUSES) {
      await setTimeout(PAUSE)
      continue
    }
    const holder = ownerOf(found)
    if (holder === undefined) {
      throw invalidValue(
        path,
        `is locked by ${file}, which does not name its owner; if nothing writes to it, delete that file`,
      )
    }
    if (isAlive(holder, owner)) {
      if (holder.pid === owner.pid || holder.host !== owner.host || pauses++ >= MOST_PAUSES) {
        throw held(path, file, holder)
      }
      await setTimeout(PAUSE)
      continue
    }
    // Only the lock that was read: another call may have replaced it meanwhile.
    if ((await read(file)) === found) await rm(file, { force: true })
  }
  return {
    async check() {
      if ((await read(file)) === text) return
      throw invalidValue(path, `is no longer written: ${file}, the lock of this call, was deleted or replaced`)
    },
    async release() {
      if ((await read(file)) === text) await rm(file, { force: true })
    },
  }

  async function create(name: string, content: string): Promise<boolean> {
    try {
      await writeFile(name, content, { flag: 'wx' })
      return true
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EEXIST') return false
      if (code === 'ENOENT') throw invalidValue(path, `cannot be written: there is no folder '${dirname(path)}'`)
      throw error
    }
  }
}

/** The content of a file, undefined when the file does not exist. */
async function read(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

function ownerOf(text: string): Owner | undefined {
  try {
    const { pid, host, started, id } = JSON.parse(text)
    return Number.isInteger(pid) && pid > 0 && typeof host === 'string' ? { pid, host, started, id } : undefined
  } catch {
    return undefined
  }
}

/** Whether a holder may still be writing. A holder on another machine is assumed to be. */
function isAlive(holder: Owner, own: Owner): boolean {
  if (holder.host !== own.host) return true
  if (holder.pid === own.pid) return Math.abs(holder.started - own.started) < CLOCKS_DIFFER
  try {
    process.kill(holder.pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH'
  }
}

function held(path: string, file: string, { pid, host }: Owner) {
  const who =
    pid === process.pid && host === hostname() ? 'another call of this process' : `process ${pid} on '${host}'`
  const wayOut = `wait for it, or write another file; if that process has ended, delete ${file}`
  return invalidValue(path, `is being written by ${who}: ${wayOut}`)
}
