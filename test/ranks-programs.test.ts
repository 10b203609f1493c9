/**
 * Programs on several processes by mpirun: the example of a vocabulary in parts, and a reference pass of which a rank is
 * killed. Left out where there is no mpirun.
 */
import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
const launcher = join(root, 'examples', 'mpirun.mjs')
const folder = mkdtempSync(join(tmpdir(), 'ranks-programs-'))
afterAll(() => rmSync(folder, { recursive: true }))

const hasMpi = spawnSync('mpirun', ['--version']).status === 0
if (!hasMpi) console.log('programs on several processes left out: there is no mpirun; apt install openmpi-bin')

function run(program: string, args: string[] = [], environment: NodeJS.ProcessEnv = process.env) {
  return new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    const options = { env: environment, timeout: 100_000 }
    execFile(process.execPath, [program, ...args], options, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr })
    })
  })
}

test('without mpirun an example says what to install', async () => {
  const { code, stderr } = await run(launcher, ['sharded-vocabulary/main.mjs'], { ...process.env, PATH: folder })
  expect(code).toBe(1)
  expect(stderr).toMatch(/needs mpirun.*apt install openmpi-bin/s)
})

test.runIf(hasMpi)('a vocabulary in parts is learned, and progress is told once', { timeout: 120_000 }, async () => {
  const { code, stdout, stderr } = await run(launcher, ['sharded-vocabulary/main.mjs', '--quick'])
  expect(code, stderr).toBe(0)
  expect(stdout).toContain('the layer takes 49.3 MB; a rank may use 32.0 MB, and 2 use 24.6 MB each')
  expect(stdout.match(/^step 20\/20/gm)).toHaveLength(1)
})

test.runIf(hasMpi)('a rank alone has not the memory for it', { timeout: 60_000 }, async () => {
  const { code, stderr, stdout } = await run(launcher, ['sharded-vocabulary/main.mjs', '--ranks', '1'])
  expect(code).not.toBe(0)
  expect(stdout + stderr).toContain('too much for a rank: --ranks 2')
})

test.runIf(hasMpi)(
  'a reference pass goes on after any of its ranks has been killed',
  { timeout: 120_000 },
  async () => {
    const path = join(folder, 'reference.jsonl')
    const program = join(root, 'build', `reference-${process.pid}.mjs`)
    writeFileSync(
      program,
      `
    import { mpiCommunicator } from 'fused-preference-loss/mpi'
    import { writeReferenceLogProbs } from 'fused-preference-loss/onnxruntime'
    const [path, killed, at] = process.argv.slice(2)
    const communicator = await mpiCommunicator()
    const batches = Array.from({ length: 8 }, (_, i) => ({ number: i, labels: Int32Array.of(1, i, 2, 3) }))
    const forward = ({ number }) => {
      if (communicator.rank === Number(killed) && number >= Number(at)) process.kill(process.pid, 'SIGKILL')
      const data = Float32Array.from({ length: 40 }, (_, i) => Math.sin(i * (number + 1)))
      return { type: 'float32', dims: [2, 2, 10], data }
    }
    await writeReferenceLogProbs(path, batches, forward, { communicator })`,
    )
    try {
      const alone = join(folder, 'alone.jsonl')
      expect((await run(program, [alone])).code).toBe(0)
      const linesOf = () => readFileSync(path, 'utf8').trimEnd().split('\n').length - 1
      for (const [killed, at, done] of [
        [1, 3, 2],
        [0, 6, 6],
      ]) {
        const { code } = await run(launcher, [program, path, `${killed}`, `${at}`])
        expect(code).not.toBe(0)
        expect(linesOf()).toBe(done)
      }
      expect((await run(launcher, [program, path])).code).toBe(0)
      expect(readFileSync(path, 'utf8')).toBe(readFileSync(alone, 'utf8'))
    } finally {
      rmSync(program)
    }
  },
)
