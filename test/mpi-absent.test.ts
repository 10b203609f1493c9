/**
 * A system without any MPI: what `fused-preference-loss/mpi` says there, and that all else works. The dynamic linker of these
 * processes finds no library that has mpi in its name.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runAlone } from './mpi.js'
import { DIST } from './support.js'

const HIDE = `
  #define _GNU_SOURCE
  #include <dlfcn.h>
  #include <stdio.h>
  #include <string.h>

  void* dlopen(const char* path, int flags) {
    void* (*const opened)(const char*, int) = (void* (*)(const char*, int))dlsym(RTLD_NEXT, "dlopen");
    const char* const slash = path ? strrchr(path, '/') : 0;
    const char* const name = slash ? slash + 1 : path;
    char hidden[4096];
    if (!name || !strstr(name, "mpi")) return opened(path, flags);
    snprintf(hidden, sizeof hidden, "/nowhere/%s", name);
    return opened(hidden, flags);
  }
`

const folder = mkdtempSync(join(tmpdir(), 'fpl-mpi-absent-'))
const library = join(folder, 'hide.so')
afterAll(() => rmSync(folder, { recursive: true }))

/** Runs a program that begins without a communicator; `PATH` has no mpiexec. */
function runWithout(javaScript: string, environment: Record<string, string> = {}) {
  const preload = [process.env.LD_PRELOAD, library].filter(Boolean).join(':')
  return runAlone(javaScript, { LD_PRELOAD: preload, PATH: '/nowhere', ...environment }, '{ rank: 0 }')
}

const TRIED = /^ERR_BACKEND_UNAVAILABLE: No library of MPI was found. Tried:\n((?: {2}.*\n)+)Install one, .*\n/

/** The lines of an error's message that say what was tried, and where. */
const triedIn = (message: unknown) => TRIED.exec(String(message))?.[1].trimEnd().split('\n')
const missing = (name: string) => expect.stringMatching(`^  ${name}: .*/nowhere/.*`)

const compiles = process.platform === 'linux' && spawnSync('cc', ['--version']).status === 0

describe.runIf(compiles)('without a library of MPI', () => {
  beforeAll(() => {
    writeFileSync(join(folder, 'hide.c'), HIDE)
    execFileSync('cc', ['-shared', '-fPIC', '-o', library, join(folder, 'hide.c'), '-ldl'])
  })

  test('it says what was tried and what to install, as often as it is asked', { timeout: 60_000 }, async () => {
    const { status, values } = await runWithout(`
      tell(await told(mpiCommunicator()))
      tell(await told(mpiCommunicator()))
      tell(await told(mpiCommunicator({ library: '/opt/mpi/libmpi.so' })))
    `)
    const [first, second, chosen] = values[0] as string[]
    const names = ['libmpi_abi.so.1', 'libmpi.so.40', 'libmpich.so.12', 'libmpi.so.12', 'libmpi.so', 'libmpich.so']
    expect(triedIn(first)).toEqual(names.map(missing))
    for (const how of ['apt install openmpi-bin', 'brew install', 'pip install', 'FUSED_PREFERENCE_LOSS_MPI']) {
      expect(first).toContain(how)
    }
    expect(second).toBe(first)
    expect(triedIn(chosen)).toEqual([missing('/opt/mpi/libmpi.so')])
    expect(status).toBe(0)
  })

  test('whatever the environment names', { timeout: 60_000 }, async () => {
    const environment = { FUSED_PREFERENCE_LOSS_MPI: 'libmpi.so.99', OMPI_COMM_WORLD_SIZE: '2' }
    const { status, values } = await runWithout('tell(await told(mpiCommunicator()))', environment)
    expect({ status, tried: triedIn(values[0][0]) }).toEqual({ status: 0, tried: [missing('libmpi.so.99')] })
  })

  test('a program that needs it ends with that error', { timeout: 60_000 }, async () => {
    const { status, stderr } = await runWithout('await mpiCommunicator()')
    expect(status).not.toBe(0)
    expect(stderr).toContain('No library of MPI was found')
    expect(stderr).toContain("code: 'ERR_BACKEND_UNAVAILABLE'")
  })

  test('everything else works, a shared vocabulary over a communicator of the caller, too', {
    timeout: 60_000,
  }, async () => {
    const { status, values, stderr } = await runWithout(`
      const { crossEntropySync, getBackends } = await import(${JSON.stringify(DIST.href)})
      const { globalCounts } = await import(${JSON.stringify(new URL('./distributed/index.mjs', DIST).href)})
      const { ALONE } = await import(${JSON.stringify(new URL('../examples/moby-dick/alone.mjs', import.meta.url).href)})
      const logits = { data: Float32Array.of(0.5, -1, 2, 0.25, 3, -0.5), shape: [1, 2, 3] }
      const labels = Int32Array.of(2, 0)
      const shared = { shard: { start: 0, vocab: 3 }, communicator: ALONE, backend: 'cpu' }
      tell([
        getBackends().cpu.available,
        crossEntropySync(logits, labels, { backend: 'cpu' }).loss === crossEntropySync(logits, labels, shared).loss,
        await globalCounts(ALONE, { labels, shape: [1, 2] }),
      ])
    `)
    expect(stderr).toBe('')
    expect({ status, values }).toEqual({ status: 0, values: [[[true, true, { tokens: 1 }]]] })
  })
})
