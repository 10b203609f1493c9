/**
 * The memory that a process holds, and the most it has held since a given moment. Only Linux reports these.
 */
import { readFileSync, writeFileSync } from 'node:fs'

/** @param {number} pid @param {string} field of /proc/<pid>/status, in KiB there */
function statusBytes(pid, field) {
  const line = readFileSync(`/proc/${pid}/status`, 'utf8').match(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm'))
  return Number(line?.[1]) * 1024
}

/**
 * Starts watching a process.
 * @param {number} pid
 * @returns {() => number | undefined} the most bytes by which its memory has since exceeded the memory at the start;
 *   undefined where the system does not report it.
 */
export function watchPeak(pid) {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5')
    const before = statusBytes(pid, 'VmRSS')
    return () => Math.max(0, statusBytes(pid, 'VmHWM') - before)
  } catch {
    return () => undefined
  }
}
