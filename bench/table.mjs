/**
 * Formats figures: the banner, and a case's results as a table of text. Computes nothing except units.
 */
import { LEAST_LOAD } from './load.mjs'

/** Seconds in a suitable unit. */
export function duration(/** @type {number} */ seconds) {
  if (seconds < 1e-3) return `${(seconds * 1e6).toPrecision(3)} µs`
  return `${(seconds * 1e3).toPrecision(seconds < 1 ? 3 : 4)} ms`
}

export const gigabytes = (/** @type {number} */ bytes) => `${(bytes / 1e9).toPrecision(3)} GB`

export const megabytes = (/** @type {number} */ bytes) =>
  bytes < 0.5e6 ? '0 MB' : `${(bytes / 1e6).toPrecision(bytes < 1e9 ? 3 : 4)} MB`

export const percent = (/** @type {number} */ share) => `${(100 * share).toPrecision(share < 0.1 ? 2 : 3)} %`

const giga = (/** @type {number} */ perSecond) => (perSecond / 1e9).toPrecision(3)

export const times = (/** @type {number} */ ratio) => `${ratio < 99.5 ? ratio.toPrecision(3) : Math.round(ratio)}×`

/**
 * Text in columns: the first is aligned left, the others are aligned right.
 * @param {string[][]} rows the first is the head
 */
export function columns(rows) {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => [...row[i]].length)))
  const line = (/** @type {string[]} */ row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ')
  return [line(rows[0]), widths.map((width) => '─'.repeat(width)).join('──'), ...rows.slice(1).map(line)].join('\n')
}

/** A batch's shape, and how much of it is masked. */
export function shapeText(/** @type {readonly number[]} */ shape, /** @type {string} */ dtype) {
  return `[${shape.join(', ')}] ${dtype}`
}

/**
 * What each meter of the roofline measures, but for multiply-adds.
 * @type {Record<string, string>}
 */
const FLOORS = { memory: 'the memory itself', WebAssembly: 'the copies alone' }

/**
 * The cells of a case's table, head first; columns about logits are left out where there are no logits.
 * @param {Pick<import('./measure.mjs').CaseResult, 'entries' | 'rooflines'>} result
 */
export function cells({ entries, rooflines }) {
  const [roofline] = rooflines
  const [first] = entries
  const linear = first?.operationsPerSecond !== undefined
  const unit = linear ? 'GFLOP/s' : 'GB/s'
  const exact = first?.agreement.exact === true
  const rated = first?.shape[2] > 1000
  const measured = [
    ...(rated ? [unit] : []),
    ...(roofline ? ['roofline'] : []),
    'time ÷ ours',
    ...(exact ? ['error'] : []),
    'memory',
  ]
  const head = ['', 'median', 'p20 – p80', ...measured]
  const rows = entries.map((entry) => {
    const sliced = entry.logits < first.logits ? `, on [${entry.shape.join(', ')}]` : ''
    const wrong = entry.agreement.agrees ? '' : ' ✗ disagrees'
    return [
      `${entry.title}${sliced}${wrong}`,
      duration(entry.median),
      `${duration(entry.p20)} – ${duration(entry.p80)}`,
      ...(rated ? [giga(entry.operationsPerSecond ?? entry.bytesPerSecond)] : []),
      ...(roofline ? [entry.share === undefined ? '' : percent(entry.share)] : []),
      entry.ratio === undefined ? '' : times(entry.ratio),
      ...(exact ? [entry.agreement.error.toExponential(1)] : []),
      entry.peakBytes === undefined ? '' : megabytes(entry.peakBytes),
    ]
  })
  const floor = first?.floor
  if (roofline && floor !== undefined) {
    const perSecond = ((first.operationsPerSecond ?? first.bytesPerSecond) * first.median) / floor
    const ratio = floor / first.median
    rows.unshift([
      linear ? 'the multiply-adds alone' : FLOORS[roofline.meter],
      duration(floor),
      '',
      giga(perSecond),
      percent(1),
      times(ratio),
      ...(exact ? [''] : []),
      '',
    ])
  }
  return [head, ...rows]
}

/** The rates of the machine's memory, or through that of WebAssembly, in the case, per number of threads. */
export function bandwidthText(
  /** @type {Pick<import('./measure.mjs').Roofline, 'meter' | 'threads' | 'bandwidth'>} */ {
    meter,
    threads,
    bandwidth,
  },
) {
  const on = `${threads} thread${threads === 1 ? '' : 's'}`
  const native = meter === 'memory'
  if (bandwidth.multiply) {
    return `multiply-adds${native ? '' : ` of ${meter}`} with ${on}: ${giga(bandwidth.multiply)} GFLOP/s`
  }
  if (bandwidth.multiplyPairs) {
    return `multiply-adds of bfloat16 with ${on}: ${giga(bandwidth.multiplyPairs)} GFLOP/s`
  }
  const ways = Object.entries(bandwidth).map(([way, bytesPerSecond]) => `${way} ${gigabytes(bytesPerSecond)}/s`)
  return `${native ? meter : `through the memory of ${meter}`} with ${on}: ${ways.join(', ')}`
}

const KINDS = /** @type {const} */ (['logProb', 'hidden', 'weight'])
const KIND_NAMES = ['log-prob', '∂hidden', '∂weight']

/** Heads of the columns of `accuracyOf`. */
export const ACCURACY_HEAD = [...KIND_NAMES, ...KIND_NAMES.map((name) => `${name}, p ≈ 1`)]

/** Errors of an output layer; a kept run has nothing for those that could not be measured. */
export const accuracyOf = (/** @type {import('./accuracy.mjs').Accuracy} */ { unlikely, sure }) =>
  [unlikely, sure].flatMap((errors) => KINDS.map((kind) => (errors[kind] ?? Number.NaN).toExponential(0)))

/**
 * The errors of output layers against float64, head first; nothing where none were measured.
 * @param {readonly { title: string, accuracy?: import('./accuracy.mjs').Accuracy }[]} entries
 */
export function accuracyCells(entries) {
  const found = entries.flatMap(({ title, accuracy }) => (accuracy ? [[title, ...accuracyOf(accuracy)]] : []))
  return found.length === 0 ? [] : [['errors against float64', ...ACCURACY_HEAD], ...found]
}

/** How many repetitions were dropped of which contender; nothing where all count. */
export function droppedLines(
  /** @type {Pick<import('./measure.mjs').CaseResult, 'entries' | 'rooflines'>} */ { entries, rooflines },
) {
  const meters = rooflines.map(({ meter, threads, ...rest }) => ({ title: `${meter}, ${threads} threads`, ...rest }))
  const found = [...entries, ...meters].filter(({ dropped }) => dropped > 0)
  const lists = found.map(({ title, dropped, samples }) => `${title.trim()} ${dropped} of ${dropped + samples.length}`)
  const why = `with less than ${LEAST_LOAD} of the processor time of its threads`
  return lists.length > 0 ? [`repetitions dropped, ${why}: ${lists.join('; ')}`] : []
}

/** The peers that did not run and the reasons, one line per reason. */
export function skippedLines(/** @type {import('./measure.mjs').Skipped[]} */ skipped) {
  const reasons = [...new Set(skipped.map(({ reason }) => reason))]
  return reasons.map((reason) => {
    const titles = skipped.filter((peer) => peer.reason === reason).map(({ title }) => title.trim())
    return `skipped ${titles.join('; ')}: ${reason}`
  })
}

/**
 * A case as text: title, table, and remarks.
 * @param {import('./measure.mjs').CaseResult} result
 */
export function caseText(result) {
  const lines = [`${result.name}: ${result.title}`, `${shapeText(result.shape, result.dtype)}`, '']
  if (result.entries.length > 0) lines.push(columns(cells(result)), '')
  const accuracy = accuracyCells(result.entries)
  if (accuracy.length > 0) lines.push(columns(accuracy), '')
  if (result.entries[0]?.agreement.exact) {
    lines.push('error: the largest difference from float64 arithmetic, relative to the largest value of its kind')
  }
  for (const roofline of result.rooflines) lines.push(bandwidthText(roofline))
  lines.push(...droppedLines(result))
  for (const { title, agreement } of result.entries) {
    if (agreement.agrees) continue
    lines.push(`DISAGREES: ${title.trim()}: ${agreement.of} off by ${agreement.error.toExponential(1)} of the largest`)
  }
  for (const { title, note } of result.entries) if (note) lines.push(`${title.trim()}: ${note}`)
  lines.push(...skippedLines(result.skipped))
  return lines.join('\n')
}

/**
 * The first lines of the output.
 * @param {ReturnType<typeof import('./machine.mjs').describeMachine>} machine
 * @param {Record<string, string>} versions
 */
export function banner(machine, versions) {
  const cache = machine.lastLevelCache ? `, ${megabytes(machine.lastLevelCache)} last-level cache` : ''
  return [
    `${machine.cpu} (${machine.arch}), ${machine.threads} thread${machine.threads === 1 ? '' : 's'}${cache}, ${(machine.memory / 1e9).toFixed(0)} GB memory, ${machine.system}`,
    `instruction set ${machine.instructionSet ?? 'none'} of ${machine.instructionSets.join(', ') || 'none'}; GPU: ${machine.gpu.join(', ') || 'none'}`,
    Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
  ].join('\n')
}
