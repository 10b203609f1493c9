/**
 * What records are read from, as a stream of bytes or text.
 */
import { invalidType, invalidValue } from '../errors.js'
import { nameOf, open } from './location.js'

type Chunk = Uint8Array | string

/**
 * JSON Lines: a path or an `http:` or `file:` URL (in browsers text is a URL, relative to the page), a `Blob` or `File`,
 * the `Response` of `fetch`, or a stream of bytes or text, of the web or of Node.js.
 */
export type RecordSource = string | URL | Blob | Response | ReadableStream<Chunk> | AsyncIterable<Chunk>

/** A source that can be read, and what errors call it. */
export interface Opened {
  name: string
  chunks: AsyncIterable<Chunk>
}

/**
 * Opens a source.
 * @param name what errors call it. Defaults to its path or URL, the name of a `File`, or 'data'.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE` for one that cannot be read.
 */
export async function opened(source: RecordSource, name?: string): Promise<Opened> {
  if (typeof source === 'string' || source instanceof URL) {
    const called = name ?? nameOf(source)
    return opened(await open(source, called), called)
  }
  // By what they can do: they may be of another realm or of a library.
  if (isResponse(source)) {
    const called = name ?? (source.url || 'data')
    return opened(bodyOf(source, called), called)
  }
  if (isBlob(source)) return opened(source.stream(), name ?? (source as Partial<File>).name)
  const called = name ?? 'data'
  if (isWebStream(source)) return { name: called, chunks: chunksOf(source, called) }
  if (typeof Object(source)[Symbol.asyncIterator] === 'function') return { name: called, chunks: source }
  const wanted = 'a path, a URL, a Blob, a Response or a stream of bytes or text'
  const isPromise = typeof Object(source).then === 'function'
  throw invalidType('source', isPromise ? `${wanted}, awaited` : wanted, source)
}

function isResponse(source: unknown): source is Response {
  const { ok, status } = Object(source)
  return typeof ok === 'boolean' && typeof status === 'number'
}

function isBlob(source: unknown): source is Blob {
  const { stream, size } = Object(source)
  return typeof stream === 'function' && typeof size === 'number'
}

function isWebStream(source: unknown): source is ReadableStream<Chunk> {
  return typeof Object(source).getReader === 'function'
}

function bodyOf(response: Response, name: string): ReadableStream<Uint8Array> {
  const { ok, status, statusText, type, bodyUsed, body } = response
  if (type === 'opaque') throw invalidValue(name, "is an opaque response: fetch it without mode 'no-cors'")
  if (!ok) throw invalidValue(name, `has the status ${status} ${statusText}`.trimEnd())
  if (bodyUsed) throw invalidValue(name, 'has been read already: the body of a response can be read once')
  if (body === null) throw invalidValue(name, 'has no body')
  return body
}

/** The chunks of a web stream, which Safari cannot iterate over. */
async function* chunksOf(stream: ReadableStream<Chunk>, name: string): AsyncGenerator<Chunk> {
  if (stream.locked) throw invalidValue(name, 'is a stream that is read or piped already')
  const reader = stream.getReader()
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value
  } finally {
    // Stops the source where the reading stops before the end; does nothing after it.
    const cancelled = reader.cancel()
    reader.releaseLock()
    await cancelled
  }
}
