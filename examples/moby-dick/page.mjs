// The parts of docs/demo.md that a run of the demo writes: figures, which are the same on every machine, and times,
// which are not.

/**
 * The page with these parts in place of the old ones, each between `<!-- demo: NAME -->` and `<!-- end -->`.
 *
 * @param {string} page
 * @param {Record<string, string>} parts Markdown by name
 */
export function withParts(page, parts) {
  let text = page
  for (const [name, part] of Object.entries(parts)) {
    const place = new RegExp(`(<!-- demo: ${name} -->\n).*?(<!-- end -->)`, 's')
    if (!place.test(text)) throw new Error(`the page has no place for '${name}'`)
    text = text.replace(place, (_, open, close) => `${open}\n${part}\n\n${close}`)
  }
  return text
}

/** The content of one part of the page. */
export function partOf(/** @type {string} */ page, /** @type {string} */ name) {
  return new RegExp(`<!-- demo: ${name} -->\n\n(.*?)\n\n<!-- end -->`, 's').exec(page)?.[1]
}

/** Rows of text as a Markdown table; the first row is the head. */
export function table(/** @type {string[][]} */ [head, ...rows]) {
  const line = (/** @type {string[]} */ cells) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, i) => (i === 0 ? '---' : '--:'))), ...rows.map(line)].join('\n')
}
