/**
 * `.ci/together`, by which .ci/run runs several checks at once: what fails among them fails the run, and is shown.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'

const program = fileURLToPath(new URL('../.ci/together', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'together-'))
afterAll(() => rmSync(folder, { recursive: true }))
const TMPDIR = join(folder, 'tmp')
mkdirSync(TMPDIR)

function together(...commands: string[]) {
  const options = { encoding: 'utf8', cwd: folder, env: { ...process.env, TMPDIR }, timeout: 20_000 } as const
  const { status, stdout, stderr } = spawnSync(program, commands, options)
  expect(readdirSync(TMPDIR)).toEqual([])
  return { status, stdout, stderr }
}

describe.skipIf(process.platform === 'win32')('.ci/together', () => {
  test('passes where all pass, and shows what each prints in one piece, in their order', () => {
    const first = 'echo one; sleep 0.3; echo two >&2; echo three'
    expect(together(first, 'echo four')).toEqual({ status: 0, stdout: 'one\ntwo\nthree\nfour\n', stderr: '' })
    expect(together()).toEqual({ status: 0, stdout: '', stderr: '' })
  })

  test.each([
    ['the first', ['echo bad; exit 3', 'sleep 0.2; echo good'], 'bad\ngood\n', 'failed: echo bad; exit 3\n'],
    ['the last', ['echo good', 'echo bad; exit 3'], 'good\nbad\n', 'failed: echo bad; exit 3\n'],
    ['both', ['echo 1; false', 'echo 2; false'], '1\n2\n', 'failed: echo 1; false\nfailed: echo 2; false\n'],
    ['one by a signal', ['echo good', 'kill -9 $$'], 'good\n', 'failed: kill -9 $$\n'],
  ])('fails where %s fails, and shows what all have printed', (_, commands, stdout, stderr) => {
    // Of a signal the shell says something, too.
    expect(together(...commands)).toEqual({ status: 1, stdout, stderr: expect.stringContaining(stderr) })
  })

  test.each(['false; echo further', 'false | true; echo further', 'echo "$none"; echo further'])(
    'ends `%s` where it fails',
    (commands) => {
      const { status, stdout } = together(commands, 'echo other')
      expect({ status, further: stdout.includes('further') }).toEqual({ status: 1, further: false })
      expect(stdout).toMatch(/other\n$/)
    },
  )

  test('names the first line of a piece that fails', () => {
    expect(together('\n  false\necho 2')).toEqual({ status: 1, stdout: '', stderr: 'failed:   false\n' })
  })

  test.each(['SIGTERM', 'SIGINT'] as const)(
    'prints what there is by %s, and ends what it has started',
    async (signal) => {
      const began = join(folder, `began-${signal}`)
      // A process of a process, which would outlive the one that has started it.
      const commands = ['echo one', `echo two; (touch ${began}; sleep 60; echo further) & wait`]
      // All of them inherit the last pipe: `close` comes when the last one has ended.
      const stdio = ['ignore', 'pipe', 'inherit', 'pipe'] as const
      const child = spawn(program, commands, { cwd: folder, env: { ...process.env, TMPDIR }, stdio: [...stdio] })
      let said = ''
      child.stdout!.on('data', (data) => {
        said += data
      })
      const closed = new Promise((resolve) => child.on('close', resolve))
      await expect.poll(() => said.includes('one') && existsSync(began), { timeout: 10_000 }).toBe(true)
      child.kill(signal)
      expect(await closed).toBe(143)
      expect(said).toBe('one\ntwo\n')
      expect(readdirSync(TMPDIR)).toEqual([])
    },
    20_000,
  )

  test('runs them at once', () => {
    const meet = (own: string, other: string) => `touch ${own}; until [ -e ${other} ]; do sleep 0.02; done; echo ${own}`
    expect(together(meet('a', 'b'), meet('b', 'a'))).toEqual({ status: 0, stdout: 'a\nb\n', stderr: '' })
  })
})
