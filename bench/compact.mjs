/**
 * The compact form of a run, which the repository keeps: one entry per line, figures of four digits, no samples.
 *
 * @typedef {object} CompactEntry
 * @property {string} peer
 * @property {string} title
 * @property {number[]} [shape] of the batch, where it differs from the case's
 * @property {number} median seconds; p20 and p80 too
 * @property {number} p20
 * @property {number} p80
 * @property {number} [share] of the roofline
 * @property {number} [ratio] time ÷ ours
 * @property {number} [peakBytes] beyond the inputs
 * @property {import('./accuracy.mjs').Accuracy} [accuracy] of an output layer, against float64
 * @property {number} [dropped] repetitions without the processor time they needed, which do not count
 * @property {number} [load] processor time in a second of the clock, the median
 * @property {number} error the largest difference from ours, relative to the largest value of ours
 *
 * @typedef {object} CompactCase
 * @property {string} name
 * @property {string} group
 * @property {string} title
 * @property {string} dtype
 * @property {number[]} shape
 * @property {string} [meter] what the bandwidth is of, where it is not the memory
 * @property {number} [threads] of its measurement, where they are not all
 * @property {Record<string, number>} [bandwidth] bytes a second, or multiply-adds
 * @property {number} [floor] seconds that the roofline needs
 * @property {CompactEntry[]} entries
 *
 * @typedef {object} CompactRun
 * @property {2} format
 * @property {string} name of the machine
 * @property {string} [note] how the run differs from others
 * @property {string} date
 * @property {string} command
 * @property {any} machine
 * @property {Record<string, string>} versions
 * @property {CompactCase[]} cases
 */

/** Four digits, because a second run does not reproduce more. */
const short = (/** @type {number | undefined} */ value) =>
  value === undefined ? undefined : Number(value.toPrecision(4))

/**
 * Leaves out PyTorch versions before 2: with their default allocator, page faults take most of a call.
 * @param {string} peer @param {Record<string, string>} versions
 */
const isOutdated = (peer, versions) => peer.startsWith('torch') && /^[01]\./.test(versions.torch ?? '')

/**
 * @param {any} run the output of `npm run bench`, or a compact run
 * @param {string} [name] of the machine; its CPU's by default
 * @param {string} [note]
 * @returns {CompactRun}
 */
export function compact(run, name, note) {
  if (run.format === 2) return run
  const { date, command, machine, versions } = run
  const cases = run.cases.map((/** @type {import('./measure.mjs').CaseResult} */ result) => {
    const kept = result.entries.filter(({ peer }) => !isOutdated(peer, versions))
    const [roofline] = result.rooflines
    return {
      name: result.name,
      group: result.group,
      title: result.title,
      dtype: result.dtype,
      shape: [...result.shape],
      meter: roofline?.meter === 'memory' ? undefined : roofline?.meter,
      threads: roofline?.threads === machine.threads ? undefined : roofline?.threads,
      bandwidth: roofline && shortened(roofline.bandwidth),
      floor: short(kept[0]?.floor),
      entries: kept.map((entry) => ({
        peer: entry.peer,
        title: entry.title.trim(),
        shape: entry.logits < kept[0].logits ? [...entry.shape] : undefined,
        median: short(entry.median),
        p20: short(entry.p20),
        p80: short(entry.p80),
        share: short(entry.share),
        ratio: short(entry.ratio),
        peakBytes: entry.peakBytes,
        dropped: entry.dropped || undefined,
        load: entry.load && Number(entry.load.toFixed(2)),
        accuracy: entry.accuracy && shortErrors(entry.accuracy),
        error: short(entry.agreement.error),
      })),
    }
  })
  return { format: 2, name: name ?? machine.cpu, note, date, command, machine, versions, cases }
}

function shortened(/** @type {Record<string, number>} */ values) {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [key, short(value)]))
}

/** Two digits of each error. */
const shortErrors = (/** @type {import('./accuracy.mjs').Accuracy} */ { unlikely, sure }) => ({
  unlikely: twoDigits(unlikely),
  sure: twoDigits(sure),
})

/** @returns {import('./accuracy.mjs').Errors} */
const twoDigits = (/** @type {import('./accuracy.mjs').Errors} */ { logProb, hidden, weight }) => ({
  logProb: Number(logProb.toPrecision(2)),
  hidden: Number(hidden.toPrecision(2)),
  weight: Number(weight.toPrecision(2)),
})

/** JSON with one entry per line. */
export function compactText(/** @type {CompactRun} */ { cases, ...head }) {
  const caseLines = cases.map(({ entries, ...about }) => {
    const lines = entries.map((entry) => `  ${JSON.stringify(entry)}`).join(',\n')
    return `${JSON.stringify(about).slice(0, -1)},"entries":[\n${lines}\n]}`
  })
  return `${JSON.stringify(head).slice(0, -1)},"cases":[\n${caseLines.join(',\n')}\n]}\n`
}
