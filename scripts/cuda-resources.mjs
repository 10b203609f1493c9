/**
 * Prints the registers, shared memory and spills of every kernel, as ptxas reported them when the CUDA library was
 * compiled (build/ptxas), and how many instructions of sm_90 those that go over logits have for each (build/cubin). A
 * kernel that spills, or has more than it may have, fails the check. Without nvcc there is nothing to check.
 *
 *   --all   fails, too, where a kernel was not compiled for each architecture that ships (CMakeLists.txt)
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { MOST_INSTRUCTIONS, VOCAB } from './cuda-counts.mjs'
import { hotLoop, kernelsOf } from './sass.mjs'

const { values } = parseArgs({ options: { all: { type: 'boolean', default: false } } })
const folder = 'build/ptxas'
if (!existsSync(folder)) {
  console.log('cuda-resources: no CUDA library was compiled here (no nvcc)')
  process.exit(0)
}

const ENTRY = /Compiling entry function '(\w+)' for '(sm_\w+)'/
const SPILLS = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/
const USED = /Used (\d+) registers(?:.*?, (\d+) bytes smem)?/

/** @typedef {{ kernel: string, architecture: string, spills?: number, registers?: number, shared?: number }} Kernel */
/** @type {Kernel[]} */
const kernels = []
for (const file of readdirSync(folder)) {
  for (const line of readFileSync(join(folder, file), 'utf8').split('\n')) {
    const entry = ENTRY.exec(line)
    if (entry) kernels.push({ kernel: readable(entry[1]), architecture: entry[2] })
    const last = kernels.at(-1)
    const spills = SPILLS.exec(line)
    if (spills && last) last.spills = Number(spills[2]) + Number(spills[3])
    const used = USED.exec(line)
    if (used && last) Object.assign(last, { registers: Number(used[1]), shared: Number(used[2] ?? 0) })
  }
}

/** The kernel's own name and its template arguments. */
function readable(/** @type {string} */ mangled) {
  const [, name, rest] = /([a-z][A-Za-z]*Kernel)(.*)/.exec(mangled) ?? ['', mangled, '']
  const type = /BFloat16/.test(rest) ? 'bf16' : /Float16/.test(rest) ? 'f16' : /^I(f|NS)/.test(rest) ? 'f32' : ''
  const variant = ['', ', by-products', ', logits', ', weighted'][Number(/5SweepE(\d)/.exec(rest)?.[1] ?? 0)]
  const form = ['', ', full', ', weighted', ', capped'][Number(/4FormE(\d)/.exec(rest)?.[1] ?? 0)]
  const caps = /Lb1/.test(rest) ? ', capped' : ''
  const loss = /4LossE(\d)/.exec(rest)
  if (loss) return `${name}<${['no loss', 'pairs', 'sequences', 'tokens'][Number(loss[1])]}>`
  if (!type) return name
  return `${name}<${type}${variant}${form}${caps}>`
}

/** @type {Map<string, Kernel[]>} */
const byKernel = new Map()
for (const k of kernels) byKernel.set(k.kernel, [...(byKernel.get(k.kernel) ?? []), k])

for (const [kernel, list] of [...byKernel].sort()) {
  const columns = list
    .sort((a, b) => Number.parseInt(a.architecture.slice(3), 10) - Number.parseInt(b.architecture.slice(3), 10))
    .map((k) => `${k.architecture.slice(3)}: ${k.registers}${k.spills ? ` (spills ${k.spills})` : ''}`)
  console.log(`${kernel.padEnd(34)} ${String(list[0].shared).padStart(6)} B shared  registers ${columns.join('  ')}`)
}

const spilling = kernels.filter((k) => !(k.spills === 0))
for (const k of spilling) console.error(`cuda-resources: ${k.kernel} spills ${k.spills} bytes on ${k.architecture}`)
const architectures = [...new Set(kernels.map((k) => k.architecture))].sort().join(', ')
console.log(`${spilling.length} of ${kernels.length} kernels spill registers, of ${architectures}`)
if (kernels.length === 0 || spilling.length > 0) process.exitCode = 1

if (values.all) {
  const list = readFileSync(new URL('../CMakeLists.txt', import.meta.url), 'utf8')
  const shipped = [...list.matchAll(/\bARCHITECTURES((?: \d+(?:-real)?)+)\)/g)].flatMap(([, found]) =>
    found.match(/\d+/g),
  )
  for (const architecture of shipped) {
    const without = [...byKernel].filter(([, made]) => !made.some((k) => k.architecture === `sm_${architecture}`))
    if (without.length === 0) continue
    console.error(
      `cuda-resources: ${without.length} of ${byKernel.size} kernels were not compiled for sm_${architecture}`,
    )
    process.exitCode = 1
  }
}

const THREADS = 256

/**
 * Logits of a thread in one turn of the loop around the one that reads them: a segment, a piece of 16 tiles or, of a row that
 * is read and written in one go, half of it. Of such a row the code that writes it is counted.
 */
function perTurn(/** @type {string} */ kernel, /** @type {number} */ perTile) {
  if (kernel.startsWith('sweep')) return 16_384 / THREADS
  if (kernel.startsWith('row')) return VOCAB / THREADS / 2
  return VOCAB / THREADS / Math.ceil(VOCAB / THREADS / perTile / 16)
}

/** The kernels' machine code, or undefined where nvcc left none for sm_90 or nvdisasm is missing. */
function listing(/** @type {string} */ name) {
  const path = join('build/cubin', `${name}.cubin`)
  if (!existsSync(path)) return undefined
  try {
    return execFileSync('nvdisasm', ['-c', path], { encoding: 'utf8', maxBuffer: 1 << 28 })
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'ENOENT') return undefined
    throw error
  }
}

const listings = ['token_log_probs', 'logits_gradient', 'row_by_row'].map(listing).filter((text) => text !== undefined)
if (listings.length < 3) {
  console.log('cuda-resources: instructions left out: nvcc for sm_90 and nvdisasm are needed')
  if (process.env.CI) process.exitCode = 1
}
for (const [mangled, code] of listings.flatMap((text) => [...kernelsOf(text)])) {
  const kernel = readable(mangled)
  const most = MOST_INSTRUCTIONS[kernel]
  if (most === undefined) continue
  const { loads, inside, around } = hotLoop(code)
  const perTile = loads * (kernel.includes('f32') ? 4 : 8)
  const tile = inside / perTile
  const row = tile + around / perTurn(kernel, perTile)
  const verdict = row > most ? `, more than ${most}` : ''
  console.log(
    `${kernel.padEnd(34)} ${tile.toFixed(2)} instructions a logit in a tile, ${row.toFixed(2)} in a row${verdict}`,
  )
  if (row > most) process.exitCode = 1
}
