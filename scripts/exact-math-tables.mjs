/**
 * Writes native/core/exact_math_tables.h: the constants of native/core/exact_math.h, computed in integers.
 *
 *   node scripts/exact-math-tables.mjs [--check]
 *
 * With --check nothing is written; the exit status is 1 when the file differs from the one this script would write.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** A number is a BigInt in units of 2^-BITS, far below the last bit of any table. */
const BITS = 400n
const ONE = 1n << BITS
const times = (/** @type {bigint} */ a, /** @type {bigint} */ b) => (a * b) >> BITS
const ratio = (/** @type {number} */ a, /** @type {number} */ b) => (BigInt(a) * ONE) / BigInt(b)

/**
 * log(a / b) = 2 artanh((a - b) / (a + b)), for a / b near 1.
 * @param {number} a
 * @param {number} b
 */
function logarithm(a, b) {
  const t = ratio(a - b, a + b)
  const square = times(t, t)
  let sum = 0n
  for (let power = t, n = 1n; power !== 0n && power !== -1n; power = times(power, square), n += 2n) sum += power / n
  return 2n * sum
}

/** e^x, for x between 0 and 1. */
function exponential(/** @type {bigint} */ x) {
  let sum = 0n
  for (let term = ONE, n = 1n; term !== 0n; term = times(term, x) / n, n++) sum += term
  return sum
}

const LN2 = logarithm(4, 3) + logarithm(3, 2)
/**
 * @template T
 * @param {number} count
 * @param {(i: number) => T} of
 */
const table = (count, of) => Array.from({ length: count }, (_, i) => of(i))

/** The first 192 bits of a number in [0, 1). */
function words(/** @type {bigint} */ x) {
  if (x < 0n || x >= ONE) throw new RangeError('not a fraction')
  const word = (/** @type {number} */ i) => (x >> (BITS - 64n * BigInt(i + 1))) & 0xffffffffffffffffn
  return table(3, (i) => `0x${word(i).toString(16).padStart(16, '0')}`)
}

/** The nearest float64, and the same as a number of this file. */
const float64 = (/** @type {bigint} */ x) => Number(x) * 2 ** -Number(BITS)
const exactly = (/** @type {number} */ x) => BigInt(x * 2 ** 200) << (BITS - 200n)
const cutAt = (/** @type {bigint} */ x, /** @type {bigint} */ bit) => (x >> (BITS - bit)) << (BITS - bit)

/** A float64 in hexadecimal. */
function literal(/** @type {number} */ x) {
  if (x === 0) return '0'
  const exponent = Math.floor(Math.log2(Math.abs(x)))
  const digits = (Math.abs(x) / 2 ** exponent - 1) * 2 ** 52
  return `${x < 0 ? '-' : ''}0x1.${digits.toString(16).padStart(13, '0')}p${exponent}`
}

/** A number as two float64: the nearest one, or the number's bits up to 2^-bit, and the rest. */
function twoParts(/** @type {bigint} */ x, /** @type {bigint | undefined} */ bit = undefined) {
  const high = bit === undefined ? float64(x) : float64(cutAt(x, bit))
  return [literal(high), literal(float64(x - exactly(high)))]
}

/**
 * Cells in lines of at most 120 characters.
 * @param {string[]} cells
 * @param {string} indent
 */
function lines(cells, indent) {
  const out = [indent]
  for (const cell of cells) {
    if (out[out.length - 1].length + cell.length > 118) out.push(indent)
    out.push(`${out.pop()}${cell}, `)
  }
  return out
    .map((line) => line.trimEnd())
    .join('\n')
    .slice(0, -1)
}

const row = (/** @type {string[]} */ cells) => `{${cells.join(', ')}}`
const list = (
  /** @type {string} */ type,
  /** @type {string} */ name,
  /** @type {string[][]} */ rows,
  /** @type {string} */ comment,
) => `
// ${comment}
FPL_HD inline const ${type}* ${name}(int i) {
  static constexpr ${type} kRows[${rows.length}][${rows[0].length}] = {
${lines(rows.map(row), '      ')},
  };
  return kRows[i];
}
`
const constant = (
  /** @type {string} */ type,
  /** @type {string} */ name,
  /** @type {string[]} */ cells,
  /** @type {string} */ comment,
) => `
// ${comment}
FPL_HD inline const ${type}* ${name}() {
  static constexpr ${type} kParts[${cells.length}] = ${row(cells)};
  return kParts;
}
`

/**
 * The terms of a sum, up to the first whose product with 2^-shift is less than a quarter of 2^-192.
 * @param {(k: number) => bigint} term
 * @param {bigint} shift
 */
function terms(term, shift) {
  const out = []
  for (let k = 0; term(k) >> (BITS - 194n + shift) !== 0n; k++) out.push(term(k))
  return out
}
const expTerms = terms((k) => {
  let term = LN2
  for (let n = 2n; n <= BigInt(k) + 2n; n++) term = times(term, LN2) / n
  return term >> (5n * BigInt(k))
}, 5n)
const logTerms = terms((k) => ratio(1, k + 2) >> (6n * BigInt(k)), 6n)

/** 256 / m for m in the middle of [1 + i/64, 1 + (i + 1)/64), or from row UPPER on for half of that m. */
const UPPER = 27
const inverses = table(64, (i) =>
  i === 0 || i === 63 ? 256 : Math.round((256 * 128 * (i < UPPER ? 1 : 2)) / (129 + 2 * i)),
)
const logs = inverses.map((k) => logarithm(256, k))

const text = `// Made by scripts/exact-math-tables.mjs: the constants of exact_math.h. Numbers in [0, 1) of 192 bits, the first ones
// first, are cut off after the last bit; where two float64 stand for a number, the second is what the first leaves.
// clang-format off
#pragma once

#include <cstdint>

#include "platform.h"

namespace fpl {
namespace exact {
${[
  constant('double', 'ln2Parts', twoParts(LN2, 42n), 'ln 2, the first part a multiple of 2^-42'),
  constant('double', 'ln2By128', twoParts(LN2 >> 7n, 42n), 'ln 2 / 128, the first part a multiple of 2^-42'),
  list(
    'double',
    'powerParts',
    table(128, (i) => twoParts(exponential((LN2 * BigInt(i)) / 128n))),
    '2^(i/128)',
  ),
  list(
    'double',
    'logParts',
    logs.map((x) => twoParts(x, 42n)),
    '-log(inverse(i) / 256), the first part a multiple of 2^-42',
  ),
  constant('uint64_t', 'halfLog2e', words((ONE * ONE) / LN2 / 2n), 'log2(e) / 2'),
  constant('uint64_t', 'ln2', words(LN2), 'ln 2'),
  list(
    'uint64_t',
    'halfPower',
    table(32, (i) => words(exponential((LN2 * BigInt(i)) / 32n) / 2n)),
    '2^(i/32) / 2',
  ),
  list('uint64_t', 'expTerm', expTerms.map(words), 'ln2^(i+2) / (i+2)! · 2^-5i'),
  list('uint64_t', 'logTerm', logTerms.map(words), '1 / (i+2) · 2^-6i'),
  list(
    'uint64_t',
    'logOfInverse',
    logs.map((x) => words(x < 0n ? -x : x)),
    '|log(inverse(i) / 256)|',
  ),
].join('')}
constexpr int kExpTerms = ${expTerms.length}, kLogTerms = ${logTerms.length};

// 256 / m, to the nearest whole number, for m in the middle of [1 + i/64, 1 + (i+1)/64); from row kUpper on for half of
// that m. Next to 1 it is 256.
constexpr int kUpper = ${UPPER};
FPL_HD inline int32_t inverse(int i) {
  static constexpr int16_t kRows[64] = {
${lines(inverses.map(String), '      ')},
  };
  return kRows[i];
}

}  // namespace exact
}  // namespace fpl
`

const file = join(fileURLToPath(new URL('..', import.meta.url)), 'native', 'core', 'exact_math_tables.h')
if (!process.argv.includes('--check')) {
  writeFileSync(file, text)
} else if (readFileSync(file, 'utf8') !== text) {
  console.error(`${file} differs from the output of scripts/exact-math-tables.mjs`)
  process.exitCode = 1
}
