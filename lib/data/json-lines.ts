/**
 * JSON Lines, read a line at a time: files may be larger than memory.
 */
import { viewKind } from '../check/arrays.js'
import { invalidType, invalidValue } from '../errors.js'

/** A line that is there. `number` counts from 1, blank lines included. */
export interface Line {
  number: number
  /** Without a byte order mark; undefined for bytes that are not UTF-8. */
  text: string | undefined
  /** Whether a line feed stood behind it; false only for the last line, which may have been cut short. */
  ended: boolean
}

type Chunk = Uint8Array | string

/**
 * The lines of a stream of bytes or text that are not blank. They do not depend on where the stream is cut.
 * node:readline is no help here: to it U+2028, which JSON allows inside strings and chat data contains, ends a line.
 *
 * @param chunks the stream.
 * @param name of the source, for errors.
 * @throws TypeError `ERR_INVALID_ARG_TYPE` for a stream of anything else, `ERR_INVALID_ARG_VALUE` for a source in
 *   another format: compressed, say, or one JSON array.
 */
export async function* linesOf(chunks: AsyncIterable<Chunk>, name: string): AsyncGenerator<Line> {
  let number = 1
  let parts: Chunk[] = []
  let beginning: string | undefined = ''
  for await (const chunk of chunks) {
    if (typeof chunk !== 'string' && viewKind(chunk) !== 'Uint8Array') {
      const remedy = 'objects go to preferenceBatches, or through JSON.stringify, a line each'
      throw invalidType(`${name}: every chunk`, `bytes or text (${remedy})`, chunk)
    }
    if (beginning !== undefined) beginning = checkBeginning(beginning, chunk, name)
    let start = 0
    for (let end = lineFeed(chunk, start); end >= 0; end = lineFeed(chunk, start)) {
      parts.push(slice(chunk, start, end))
      const text = textOf(parts)
      if (!isBlank(text)) yield { number, text, ended: true }
      parts = []
      number++
      start = end + 1
    }
    // A copy, for the stream may fill the memory of a chunk again.
    if (start < chunk.length)
      parts.push(typeof chunk === 'string' ? chunk.slice(start) : new Uint8Array(chunk.subarray(start)))
  }
  const text = textOf(parts)
  if (!isBlank(text)) yield { number, text, ended: false }
}

function lineFeed(chunk: Chunk, start: number): number {
  return typeof chunk === 'string' ? chunk.indexOf('\n', start) : chunk.indexOf(10, start)
}

function slice(chunk: Chunk, start: number, end: number): Chunk {
  return typeof chunk === 'string' ? chunk.slice(start, end) : chunk.subarray(start, end)
}

function isBlank(text: string | undefined): boolean {
  return text !== undefined && /^[ \t\r]*$/.test(text)
}

// Bytes that are not UTF-8 would otherwise turn into replacement characters without a word.
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * The text of a line. Pieces of text are not made bytes first: a half of a surrogate pair has none. Pieces of bytes are
 * put together before they are decoded.
 */
function textOf(parts: readonly Chunk[]): string | undefined {
  let text = ''
  let bytes: Uint8Array[] = []
  const decoded = () => utf8.decode(joined(bytes))
  try {
    for (const part of parts) {
      if (typeof part !== 'string') {
        bytes.push(part)
        continue
      }
      text += decoded() + part
      bytes = []
    }
    text += decoded()
  } catch {
    return undefined
  }
  return text.startsWith('\u{FEFF}') ? text.slice(1) : text
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0]
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let end = 0
  for (const part of parts) {
    whole.set(part, end)
    end += part.length
  }
  return whole
}

/** How files in other formats begin, a character a byte, and what to do with them. U+FFFD is what decoding makes of a byte. */
const FORMATS: readonly (readonly [beginnings: readonly string[], problem: string])[] = [
  [
    ['\x1f\x8b', '\x1f\ufffd'],
    "is compressed with gzip: unzip it, or give a stream that does, file.stream().pipeThrough(new DecompressionStream('gzip')) or, in Node.js, createReadStream(path).pipe(createGunzip())",
  ],
  [['PK\x03\x04', 'BZh', '\x28\xb5\x2f\xfd', '\xfd7zXZ'], 'is a compressed file: unpack it first'],
  [['PAR1', 'ARROW1'], 'is a Parquet or Arrow file: convert it to JSON Lines first'],
  [['<!DOCTYPE', '<!doctype', '<html'], 'is an HTML page, as a server may send for a file that it does not have'],
  [['\xff\xfe', '\xfe\xff', '{\0', '\0{', '\ufffd\ufffd{\0'], 'is UTF-16: convert it to UTF-8 first'],
]

/** Characters of a source that tell its format. */
const BEGINNING = 64

/**
 * Refuses a source whose beginning says that it is in another format.
 * @returns the beginning as far as it is known, or undefined when no more of it is needed.
 */
function checkBeginning(known: string, chunk: Chunk, name: string): string | undefined {
  const more = typeof chunk === 'string' ? chunk.slice(0, BEGINNING) : latin1(chunk.subarray(0, BEGINNING))
  const beginning = known + more
  for (const [beginnings, problem] of FORMATS) {
    if (beginnings.some((each) => beginning.startsWith(each))) throw invalidValue(name, problem)
  }
  // A byte order mark and blank lines may stand before it.
  if (/^(\ufeff|\u00ef\u00bb\u00bf)?\s*\[/.test(beginning)) {
    throw invalidValue(name, "is one JSON array, not JSON Lines: write each element on a line (jq -c '.[]')")
  }
  return beginning.length < BEGINNING ? beginning : undefined
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes)
}

/** The object on a line. Throws a plain Error, without the place, for anything else. */
export function parseLine({ text, ended }: Line): Record<string, unknown> {
  const cut = ended ? '' : ', and the file ends here: it may have been cut short'
  if (text === undefined) throw new Error(`is not valid JSON (its bytes are not UTF-8)${cut}`)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new Error(`is not valid JSON (${(error as Error).message})${cut}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`must be an object; got ${Array.isArray(value) ? 'an array' : JSON.stringify(value)}`)
  }
  return value as Record<string, unknown>
}
