/**
 * The lock of scripts/setup.mjs: of several processes one works at a time, and a process that is killed blocks nobody.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'

const { withLock } = await import(new URL('../scripts/lock.mjs', import.meta.url).href)
const folder = mkdtempSync(join(tmpdir(), 'lock-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** A process that works for a while with the lock, and writes to the log when it begins and when it ends. */
function worker(lock: string, log: string, ms: number) {
  const program = `
    import { appendFileSync } from 'node:fs'
    import { setTimeout } from 'node:timers/promises'
    import { withLock } from ${JSON.stringify(new URL('../scripts/lock.mjs', import.meta.url).href)}
    await withLock(${JSON.stringify(lock)}, async () => {
      appendFileSync(${JSON.stringify(log)}, 'begin ' + process.pid + '\\n')
      await setTimeout(${ms})
      appendFileSync(${JSON.stringify(log)}, 'end ' + process.pid + '\\n')
    })`
  return spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'ignore', 'inherit'] })
}

/** A number that no process has. */
async function endedProcess(): Promise<number> {
  const child = spawn(process.execPath, ['--eval', ''])
  await once(child, 'close')
  return child.pid!
}

test('of four processes one works at a time, though a fifth has left its lock', async () => {
  const [lock, log] = [join(folder, 'a.lock'), join(folder, 'a.log')]
  writeFileSync(lock, `${await endedProcess()} ${hostname()}`)
  const workers = Array.from({ length: 4 }, () => worker(lock, log, 100))
  const codes = await Promise.all(workers.map(async (child) => (await once(child, 'close'))[0]))
  expect(codes).toEqual([0, 0, 0, 0])
  const lines = readFileSync(log, 'utf8').trimEnd().split('\n')
  expect(lines).toHaveLength(8)
  for (let i = 0; i < 8; i += 2) expect(lines[i + 1]).toBe(lines[i].replace('begin', 'end'))
  expect(readdirSync(folder).filter((name) => name.includes('lock'))).toEqual([])
})

test('a process that is killed gives way', async () => {
  const [lock, log] = [join(folder, 'b.lock'), join(folder, 'b.log')]
  appendFileSync(log, '')
  const killed = worker(lock, log, 60_000)
  while (readFileSync(log, 'utf8') === '') await new Promise((resolve) => setTimeout(resolve, 20))
  killed.kill('SIGKILL')
  await once(killed, 'close')
  expect(existsSync(lock)).toBe(true)
  const owners: string[] = []
  await withLock(
    lock,
    () => {},
    (owner: string) => owners.push(owner),
  )
  expect(owners).toEqual([])
  expect(existsSync(lock)).toBe(false)
})

test('what is waited for is named once, and an error of the work gives the lock back', async () => {
  const [lock, log] = [join(folder, 'c.lock'), join(folder, 'c.log')]
  appendFileSync(log, '')
  const first = worker(lock, log, 600)
  while (readFileSync(log, 'utf8') === '') await new Promise((resolve) => setTimeout(resolve, 20))
  const owners: string[] = []
  const work = withLock(
    lock,
    () => {
      throw new Error('no compiler')
    },
    (owner: string) => owners.push(owner),
  )
  await expect(work).rejects.toThrow('no compiler')
  expect(owners).toEqual([`${first.pid} ${hostname()}`])
  expect(readFileSync(log, 'utf8')).toContain('end')
  expect(existsSync(lock)).toBe(false)
})

test('nobody takes the lock of a process on another machine, or of one that has not written its name yet', async () => {
  for (const owner of ['1 another-machine', '']) {
    const lock = join(folder, 'd.lock')
    writeFileSync(lock, owner)
    let worked = false
    const waiting = withLock(lock, () => {
      worked = true
    })
    await new Promise((resolve) => setTimeout(resolve, 500))
    expect({ owner, worked }).toEqual({ owner, worked: false })
    rmSync(lock)
    await waiting
    expect(worked).toBe(true)
  }
})
