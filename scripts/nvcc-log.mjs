/**
 * Runs a compiler and keeps its output about the kernels, and their PTX and machine code for sm_90 where it makes these
 * on its way: `node nvcc-log.mjs <folder> <compiler> <arguments...>`. The PTX goes to `<folder>/../ptx`, for the tests
 * that carry it out, the machine code to `<folder>/../cubin`, for scripts/cuda-resources.mjs.
 */
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'

const [folder, compiler, ...args] = process.argv.slice(2)
const compiles = args.includes('-c')
const object = args[args.indexOf('-o') + 1]
const kept = mkdtempSync(join(tmpdir(), 'nvcc-'))
const keep = compiles ? ['--keep', '--keep-dir', kept] : []
const { status, stdout, stderr } = spawnSync(compiler, [...args, ...keep], { encoding: 'utf8', maxBuffer: 1 << 28 })
if (status === 0 && compiles) {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, `${basename(object)}.log`), stdout + stderr)
  keep90()
}
rmSync(kept, { recursive: true })
const isResources = (/** @type {string} */ line) => /^ptxas info|bytes stack frame|^\s*$/.test(line)
const rest = (stdout + stderr).split('\n').filter((line) => !isResources(line))
if (rest.length > 0) console.error(rest.join('\n'))
process.exitCode = status ?? 1

/** Keeps what was made for sm_90, or nothing. */
function keep90() {
  const ptx = readdirSync(kept)
    .filter((name) => name.endsWith('.ptx'))
    .map((name) => join(kept, name))
    .find((path) => /^\.target sm_90$/m.test(readFileSync(path, 'utf8')))
  const stem = ptx?.slice(0, -'.ptx'.length)
  const cubin = [`${stem}.cubin`, `${stem}.sm_90.cubin`].find(existsSync)
  for (const [kind, made] of Object.entries({ ptx, cubin })) {
    const to = join(folder, '..', kind)
    mkdirSync(to, { recursive: true })
    const path = join(to, basename(object).replace(/\..*/, `.${kind}`))
    if (made) copyFileSync(made, path)
    else rmSync(path, { force: true })
  }
}
