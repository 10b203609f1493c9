/**
 * The default number of threads: what affinity and the quotas of control groups leave to the process. Quotas are read from
 * folders that look like a system's.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { availableThreads, processorQuota } from '../lib/backends/available-threads.js'
import { JobArguments } from '../lib/backends/cpu/job-arguments.js'
import { getBackends } from '../lib/index.js'

const folders: string[] = []
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true })
})

function quotaOf(files: Record<string, string>): number {
  const folder = mkdtempSync(join(tmpdir(), 'quota-'))
  folders.push(folder)
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), `${text}\n`)
  }
  return processorQuota(folder)
}

const unified = (root = '/', point = '/sys/fs/cgroup') =>
  `22 1 0:20 / / rw - ext4 /dev/root rw\n31 23 0:28 ${root} ${point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate`
const first = (root = '/', controllers = 'cpu,cpuacct') =>
  `32 31 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 31 0:30 ${root} /sys/fs/cgroup/${controllers} rw shared:10 - cgroup cgroup rw,${controllers}`

const CGROUP = 'proc/self/cgroup'
const MOUNTS = 'proc/self/mountinfo'
const CPU = 'sys/fs/cgroup/cpu,cpuacct'

test.each<[string, number, Record<string, string>]>([
  ['nothing is there, as outside of Linux', Number.POSITIVE_INFINITY, {}],
  [
    'version 2: a container that sees its own group as the root',
    1.5,
    { [CGROUP]: '0::/', [MOUNTS]: unified(), 'sys/fs/cgroup/cpu.max': '150000 100000' },
  ],
  [
    'version 2: no quota',
    Number.POSITIVE_INFINITY,
    { [CGROUP]: '0::/', [MOUNTS]: unified(), 'sys/fs/cgroup/cpu.max': 'max 100000' },
  ],
  [
    'version 2: the least of the group and those above it',
    2,
    {
      [CGROUP]: '0::/kubepods/pod:1/main',
      [MOUNTS]: unified(),
      'sys/fs/cgroup/kubepods/cpu.max': '600000 100000',
      'sys/fs/cgroup/kubepods/pod:1/cpu.max': '100000 50000',
      'sys/fs/cgroup/kubepods/pod:1/main/cpu.max': 'max 100000',
      'sys/fs/cgroup/kubepods/other/cpu.max': '1000 100000',
    },
  ],
  [
    'version 2: a mount that shows only a part of the hierarchy',
    4,
    {
      [CGROUP]: '0::/docker/abc/inner',
      [MOUNTS]: unified('/docker/abc', '/cg'),
      'cg/cpu.max': 'max 100000',
      'cg/inner/cpu.max': '400000 100000',
    },
  ],
  [
    'version 2: a group outside of what the mount shows',
    3,
    {
      [CGROUP]: '0::/elsewhere/longer/inner',
      [MOUNTS]: unified('/docker/abc'),
      'sys/fs/cgroup/cpu.max': '300000 100000',
      // Where the group would be if it were below the mount's.
      'sys/fs/cgroup/onger/inner/cpu.max': '100000 100000',
    },
  ],
  [
    'version 2: a group above what the mount shows',
    3,
    {
      [CGROUP]: '0::/../other',
      [MOUNTS]: unified('/'),
      'sys/fs/cgroup/cpu.max': '300000 100000',
      'sys/fs/other/cpu.max': '100000 100000',
    },
  ],
  [
    'version 1',
    2.5,
    {
      [CGROUP]: '4:pids:/somewhere\n3:cpu,cpuacct:/docker/abc\n0::/',
      [MOUNTS]: `${first('/docker/abc')}\n${unified('/', '/sys/fs/cgroup/unified')}`,
      [`${CPU}/cpu.cfs_quota_us`]: '250000',
      [`${CPU}/cpu.cfs_period_us`]: '100000',
    },
  ],
  [
    'version 1: no quota below one',
    0.5,
    {
      [CGROUP]: '3:cpu,cpuacct:/a/b',
      [MOUNTS]: first(),
      [`${CPU}/cpu.cfs_quota_us`]: '-1',
      [`${CPU}/cpu.cfs_period_us`]: '100000',
      [`${CPU}/a/cpu.cfs_quota_us`]: '50000',
      [`${CPU}/a/cpu.cfs_period_us`]: '100000',
      [`${CPU}/a/b/cpu.cfs_quota_us`]: '-1',
      [`${CPU}/a/b/cpu.cfs_period_us`]: '100000',
    },
  ],
  [
    'version 1: each controller for itself',
    2,
    {
      [CGROUP]: '2:cpuacct:/a\n1:cpu:/a',
      [MOUNTS]: `${first('/', 'cpuacct')}\n${first('/', 'cpu')}`,
      'sys/fs/cgroup/cpu/a/cpu.cfs_quota_us': '200000',
      'sys/fs/cgroup/cpu/a/cpu.cfs_period_us': '100000',
    },
  ],
  [
    'version 1: cpuset and cpuacct are other controllers',
    Number.POSITIVE_INFINITY,
    {
      [CGROUP]: '3:cpuset,cpuacct:/a',
      [MOUNTS]: first('/', 'cpuset,cpuacct'),
      'sys/fs/cgroup/cpuset,cpuacct/a/cpu.cfs_quota_us': '50000',
      'sys/fs/cgroup/cpuset,cpuacct/a/cpu.cfs_period_us': '100000',
    },
  ],
])('%s', (_, processors, files) => {
  expect(quotaOf(files)).toBe(processors)
})

test('the default is a whole number from 1, within the quota and what affinity leaves', () => {
  const wanted = Math.max(1, Math.floor(Math.min(availableParallelism(), processorQuota())))
  expect(availableThreads()).toBe(wanted)
  const { cpu, wasm } = getBackends()
  for (const { available, threads } of [cpu, wasm]) if (available) expect(threads).toBe(wanted)
})

test('calls of the cpu backend that do not say get the default', () => {
  const fields = { values: new Float64Array(2000), lossNames: [], unpairedLossNames: [], instructionSets: ['avx2'] }
  const jobs = new JobArguments(fields as never, 0, 5)
  const loss = { constants: { terms: [], fDivergence: 'reverse_kl' } } as never
  const threadsOf = (threads: number) => {
    jobs.of({ loss }, { threads })
    return fields.values.indexOf(5)
  }
  const at = threadsOf(0)
  expect(at).toBeGreaterThan(0)
  expect(threadsOf(5)).toBe(at)
  expect(threadsOf(7)).toBe(-1)
})
