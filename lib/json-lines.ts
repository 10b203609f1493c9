/**
 * JSON Lines, read a line at a time: files may be larger than memory.
 */

/** A line that is there. `number` counts from 1, blank lines included. */
export interface Line {
  number: number
  bytes: Uint8Array
  /** Whether a line feed stood behind it; false only for the last line, which may have been cut short. */
  ended: boolean
}

const LINE_FEED = 10

/**
 * The lines of a stream of bytes or text that are not blank. node:readline is no help here: to it U+2028, which JSON
 * allows inside strings and chat data contains, ends a line.
 */
export async function* linesOf(chunks: AsyncIterable<Uint8Array | string>): AsyncGenerator<Line> {
  let number = 1
  let parts: Uint8Array[] = []
  const line = (ended: boolean): Line => ({ number, bytes: Buffer.concat(parts), ended })
  for await (const chunk of chunks) {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk
    let start = 0
    for (let end = bytes.indexOf(LINE_FEED); end >= 0; end = bytes.indexOf(LINE_FEED, start)) {
      parts.push(bytes.subarray(start, end))
      const complete = line(true)
      if (!isBlank(complete.bytes)) yield complete
      parts = []
      number++
      start = end + 1
    }
    if (start < bytes.length) parts.push(bytes.subarray(start))
  }
  const last = line(false)
  if (!isBlank(last.bytes)) yield last
}

function isBlank(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d)
}

/** The object on a line. Throws a plain Error, without the place, for anything else. */
export function parseLine({ bytes, ended }: Line): Record<string, unknown> {
  let value: unknown
  try {
    // Bytes that are not UTF-8 would otherwise turn into replacement characters without a word.
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    const cut = ended ? '' : ', and the file ends here: it may have been cut short'
    throw new Error(`is not valid JSON (${(error as Error).message})${cut}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`must be an object; got ${Array.isArray(value) ? 'an array' : JSON.stringify(value)}`)
  }
  return value as Record<string, unknown>
}
