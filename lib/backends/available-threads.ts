/**
 * How many threads a job has by default: the processors that this process may use.
 */
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'

/** A hierarchy of control groups: where it is mounted, and the group in it whose files are there. */
interface Mount {
  point: string
  root: string
}

/**
 * The processors that affinity leaves to this process, and no more of them than its quota of processor time is worth,
 * rounded down as Node.js itself does from 22.10 on: a job's threads wait for each other, so that one without time
 * holds up all.
 */
export function availableThreads(): number {
  return Math.max(1, Math.floor(Math.min(availableParallelism(), processorQuota())))
}

/**
 * The processors that Linux' control groups grant this process and those with it, a container's `--cpus`: the least
 * quota of its group and of those above it, in version 1 and in version 2. Infinity without a quota. `folder` holds the
 * system's /proc and its mounts, for tests.
 */
export function processorQuota(folder = '/'): number {
  const read = (path: string) => textOf(join(folder, path))
  const mounts = mountsOf(read('proc/self/mountinfo'))
  const quotas = [Number.POSITIVE_INFINITY]
  for (const line of read('proc/self/cgroup').split('\n')) {
    // id:controllers:group; without controllers in version 2
    const [, controllers, ...names] = line.split(':')
    const mount = controllers === '' ? mounts.unified : controllers?.split(',').includes('cpu') && mounts.cpu
    if (!mount) continue
    for (const group of groupsAbove(names.join(':'), mount)) {
      const [quota, period] =
        controllers === ''
          ? read(join(group, 'cpu.max')).split(' ')
          : [read(join(group, 'cpu.cfs_quota_us')), read(join(group, 'cpu.cfs_period_us'))]
      const processors = Number(quota) / Number(period)
      // 'max' and -1 stand for none.
      if (processors > 0) quotas.push(processors)
    }
  }
  return Math.min(...quotas)
}

/** The folders of a group and of those above it, as far as the mount shows them. */
function groupsAbove(group: string, { point, root }: Mount): string[] {
  // Where a container does not see its own group, the mount begins at the group.
  const inside = group.startsWith(root) ? group.slice(root.length) : ''
  const names = inside.split('/').filter((name) => name !== '' && name !== '..')
  return Array.from({ length: names.length + 1 }, (_, depth) => join(point, ...names.slice(0, depth)))
}

/** The mounts of version 2 and of version 1's controller of processors. */
function mountsOf(mountinfo: string): { unified?: Mount; cpu?: Mount } {
  const found: { unified?: Mount; cpu?: Mount } = {}
  for (const line of mountinfo.split('\n')) {
    // 31 23 0:28 ROOT POINT options … - TYPE source options
    const [where, what] = line.split(' - ')
    const [, , , root, point] = where.split(' ')
    const [type, , options] = (what ?? '').split(' ')
    if (type === 'cgroup2') found.unified ??= { point, root }
    if (type === 'cgroup' && options?.split(',').includes('cpu')) found.cpu ??= { point, root }
  }
  return found
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
