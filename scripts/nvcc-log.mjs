/**
 * Runs a compiler and keeps its output about the kernels: `node nvcc-log.mjs <folder> <compiler> <arguments...>`.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'

const [folder, compiler, ...args] = process.argv.slice(2)
const { status, stdout, stderr } = spawnSync(compiler, args, { encoding: 'utf8', maxBuffer: 1 << 28 })
const object = args[args.indexOf('-o') + 1]
if (status === 0 && args.includes('-c')) {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, `${basename(object)}.log`), stdout + stderr)
}
const isResources = (/** @type {string} */ line) => /^ptxas info|bytes stack frame|^\s*$/.test(line)
const rest = (stdout + stderr).split('\n').filter((line) => !isResources(line))
if (rest.length > 0) console.error(rest.join('\n'))
process.exitCode = status ?? 1
