/**
 * One line of progress on standard error: rewritten in place in a terminal, one line per case elsewhere.
 */
const stream = process.stderr

/** @param {number} count of cases */
export function progressLine(count) {
  let before = ''
  const clear = () => stream.isTTY && stream.write('\r\x1b[K')
  return {
    /** @param {number} index of the case, from 0 @param {string} name */
    begin(index, name) {
      before = `[${index + 1}/${count}] ${name}`
      stream.write(stream.isTTY ? before : `${before}\n`)
    },
    /** @param {string} text */
    update(text) {
      if (!stream.isTTY) return
      clear()
      stream.write(`${before}: ${text}`.slice(0, stream.columns - 1))
    },
    end: clear,
  }
}
