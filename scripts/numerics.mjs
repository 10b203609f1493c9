/**
 * Writes the tables of docs/numerics.md: errors against the oracle, and the instruction sets that give the same bits.
 *
 *   npm run numerics
 *
 * Needs an x86-64 Linux machine; NEON runs under qemu-user, and AVX-512 is emulated where the machine does not have it.
 * AVX512-BF16 is left out there.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { buildNative, need, root, run } from './native-tests.mjs'

need({
  cmake: 'cmake',
  'g++': 'g++ libsimde-dev',
  'aarch64-linux-gnu-g++': 'g++-aarch64-linux-gnu',
  'qemu-aarch64-static': 'qemu-user-static',
})

const native = buildNative('numerics', 'numerics', '-O2')
const cross = ['-DCMAKE_SYSTEM_NAME=Linux', '-DCMAKE_SYSTEM_PROCESSOR=aarch64']
const arm = buildNative('neon', 'numerics', '-O2 -static', 'aarch64-linux-gnu-g++', cross)

const rows = (/** @type {string} */ program, /** @type {string[]} */ ...args) =>
  run(program, args, { capture: true })
    .trim()
    .split('\n')
    .map((line) => line.split('\t'))

const sets = rows(native, 'sets').flat()
const hasAvx512 = sets.includes('avx512')
const wide = hasAvx512 ? native : buildNative('emulated', 'numerics', '-O2', 'g++', ['-DEMULATE_AVX512=ON'])

/** @type {[key: string, name: string, hashes: string[][]][]} */
const SETS = [
  ['avx2', 'AVX2', rows(native, 'bits', 'avx2')],
  ['avx512', hasAvx512 ? 'AVX-512' : 'AVX-512 (emulated)', rows(wide, 'bits', 'avx512')],
  ...(sets.includes('avx512bf16')
    ? [/** @type {[string, string, string[][]]} */ (['avx512bf16', 'AVX512-BF16', rows(native, 'bits', 'avx512bf16')])]
    : []),
  ['neon', 'NEON (qemu)', rows('qemu-aarch64-static', arm, 'bits', 'neon')],
  ['baseline', 'baseline', rows(native, 'bits', 'baseline')],
]
const reference = SETS[0][2]
const same = (/** @type {string[][]} */ other) => reference.every(([, , hash], i) => hash === other[i][2])

const table = (/** @type {string[]} */ head, /** @type {string[][]} */ body) =>
  [head, head.map((_, i) => (i === 0 ? '---' : '--:')), ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n')

const fused = SETS.filter(([, , hashes]) => same(hashes)).map(([, name]) => name)
/** @type {[sets: string, rows: string[][]][]} */
const measured = [
  [fused.join(', '), rows(native, 'ulps', 'avx2')],
  ['baseline', rows(native, 'ulps', 'baseline')],
]
const errors = measured.flatMap(([sets, list]) =>
  list.map(([dtype, count, ...worst]) => [sets, dtype, ...worst, count]),
)
const ulps = table(['Instruction set', 'dtype', 'logProb', 'logSumExp', 'entropy', 'Σp²', 'gradient', 'rows'], errors)
const terms = table(
  ['Instruction set', 'through', 'soft-cap', 'error', 'rows'],
  [
    [fused.join(', '), 'avx2'],
    ['baseline', 'baseline'],
  ].flatMap(([sets, set]) => rows(native, 'gradients', set).map((row) => [sets, ...row])),
)
const rounding = table(
  ['k', 'p of the labels', 'hidden, float32', 'weight, float32', 'hidden, bfloat16', 'weight, bfloat16'],
  rows(native, 'rounding', 'avx2').map((cells) => cells.map((cell) => cell.replaceAll('e-0', 'e-'))),
)
const bits = table(
  ['dtype', 'logits', ...SETS.map(([, name]) => name)],
  reference.map(([dtype, style, hash], i) => [
    dtype,
    style,
    `\`${hash}\``,
    ...SETS.slice(1).map(([, , hashes]) => (hashes[i][2] === hash ? 'same' : 'other')),
  ]),
)

const text = `
Largest errors, in ULP: of float32 at max(|x|, 1) for logProb, logSumExp and entropy, of float32 for Σp², of the stored
type for the gradient. Against sums in long double; vocabularies of 1 to 40 000, temperatures 0.7, 1 and 30.

${ulps}

The same of gradients of float32 logits through the entropy, and through all results of a row at once: in ULP of the sum of
the magnitudes of a derivative's terms, without a soft-cap and with one of that size, whose own error comes in here.

${terms}

Errors of an output layer's gradients beside float64, norm / largest element, relative, with the gradient of logits in float32
and with one rounding to bfloat16 (\`gradientPrecision\`): 128 rows of width 64 and 8192 words, in bfloat16; weights 0.2 · N(0, 1),
hidden states N(0, 1) + k · the label's weights. A larger k makes the label likelier; p is the mean of its probability.

${rounding}

Every bit of log-probs, by-products, row states and gradients, as one hash for each dtype and kind of logits, and for
logits made of hidden states and an output layer's weight, without and with one rounding; of gradients through results of
tokens, of cross-entropies and in other element types, over all kinds of logits; and of the values and slopes of all losses.
The baseline has no fused multiply-add.

${bits}

`
const file = join(root, 'docs', 'numerics.md')
const [start, end] = ['<!-- tables -->', '<!-- /tables -->']
const before = readFileSync(file, 'utf8')
if (!before.includes(start) || !before.includes(end)) throw new Error(`${file} has no ${start} … ${end}`)
writeFileSync(file, before.slice(0, before.indexOf(start) + start.length) + text + before.slice(before.indexOf(end)))
console.log(text)
for (const [set, name, hashes] of SETS) {
  if (set !== 'baseline' && !same(hashes)) {
    console.error(`${name} has other bits than ${SETS[0][1]}`)
    process.exitCode = 1
  }
}
