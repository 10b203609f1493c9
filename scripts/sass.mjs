/** Machine code of CUDA kernels, as nvdisasm prints it, and how many of its instructions a loop over logits takes. */

/**
 * @typedef {{ text: string, to?: number, isConditional: boolean }} Instruction `to`: where it jumps
 * @typedef {{ begin: number, end: number }} Loop its first instruction, and the jump back to it
 */

/**
 * The kernels of a cubin by their mangled names: what `nvdisasm -c` prints.
 * @returns {Map<string, Instruction[]>}
 */
export function kernelsOf(/** @type {string} */ listing) {
  /** @type {Map<string, Instruction[]>} */
  const kernels = new Map()
  for (const section of listing.split(/^\.text\./m).slice(1)) {
    /** @type {Instruction[]} */
    const instructions = []
    /** @type {Map<string, number>} */
    const labels = new Map()
    for (const line of section.split('\n').slice(1)) {
      if (/^\s*\.section/.test(line)) break
      const label = /^(\.L_x_\d+):/.exec(line)
      if (label) labels.set(label[1], instructions.length)
      const instruction = /^\s*\/\*[0-9a-f]{4,}\*\/\s+(.*?)\s*;/.exec(line)
      if (instruction)
        instructions.push({ text: instruction[1], isConditional: /^@|\bBRA\.DIV\b/.test(instruction[1]) })
    }
    for (const i of instructions) {
      const target = /\bBRA\b.*`\((\.L_x_\d+)\)/.exec(i.text)
      if (target) i.to = labels.get(target[1])
    }
    kernels.set(section.slice(0, section.indexOf(':')), instructions)
  }
  return kernels
}

/** Where a kernel may go on after an instruction; jumps back are left out. */
function successors(/** @type {Instruction[]} */ code, /** @type {number} */ at) {
  const { text, to, isConditional } = code[at]
  const ends = /\b(EXIT|RET|BRA)\b/.test(text) && !isConditional
  return [...(ends ? [] : [at + 1]), ...(to !== undefined && to > at ? [to] : [])]
}

const isLoad = (/** @type {Instruction} */ { text }) => /\bLDG\.E\.EF\.128/.test(text)

/**
 * Instructions on the way from one to another: of the ways with the most streaming loads of 16 bytes or, with `sign` −1, the
 * fewest, the shortest.
 * @returns {{ loads: number, count: number } | undefined} undefined where there is no way
 */
function way(
  /** @type {Instruction[]} */ code,
  /** @type {number} */ from,
  /** @type {number} */ to,
  /** @type {1 | -1} */ sign = 1,
) {
  /** @type {({ loads: number, count: number } | undefined)[]} */
  const best = []
  best[from] = { loads: 0, count: 0 }
  for (let at = from; at <= to; ++at) {
    const here = best[at]
    if (!here) continue
    const after = { loads: here.loads + Number(isLoad(code[at])), count: here.count + 1 }
    if (at === to) return after
    for (const next of successors(code, at)) {
      const other = best[next]
      const more = other ? sign * (after.loads - other.loads) : 1
      if (!other || more > 0 || (more === 0 && after.count < other.count)) best[next] = after
    }
  }
}

/**
 * Instructions of a thread in the loop that reads logits, and what one turn of the loop around it adds. A tile of logits that
 * is read outside of the inner loop, as the last of a row is, counts as one inside.
 * @returns {{ loads: number, inside: number, around: number }} `loads`: of 16 bytes, in a turn of the inner loop
 */
export function hotLoop(/** @type {Instruction[]} */ code) {
  /** @type {Loop[]} */
  const loops = []
  for (const [end, { to }] of code.entries()) if (to !== undefined && to <= end) loops.push({ begin: to, end })
  const holds = (/** @type {Loop} */ a, /** @type {Loop} */ b) => a !== b && a.begin <= b.begin && a.end >= b.end
  const inner = loops.filter((loop) => !loops.some((other) => holds(loop, other)))
  const [hot] = inner
    .map((loop) => ({ loop, ...(way(code, loop.begin, loop.end) ?? { loads: 0, count: 0 }) }))
    .sort((a, b) => b.loads - a.loads)
  if (!hot?.loads) throw new Error('no loop that reads logits')
  const [outer] = loops.filter((loop) => holds(loop, hot.loop)).sort((a, b) => a.end - a.begin - (b.end - b.begin))
  const before = way(code, outer.begin, hot.loop.begin, -1)?.count ?? 0
  const after = way(code, hot.loop.end, outer.end, -1)?.count ?? 0
  return { loads: hot.loads, inside: hot.count, around: before - 1 + after - 1 }
}
