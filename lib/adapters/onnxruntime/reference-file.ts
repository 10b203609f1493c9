/**
 * The file of reference log-probs: JSON Lines with a header, one line per batch, and a last line that marks it as
 * complete. Every batch has a fingerprint of its data, so that a file is never continued with, or used for, other data.
 */
import { createHash } from 'node:crypto'
import { appendFile, readFile, truncate, writeFile } from 'node:fs/promises'
import { invalidValue } from '../../errors.js'
import type { BatchLogProbs } from './reference-batch.js'

const FORMAT = 'fused-preference-loss/reference'
const VERSION = 1

/** A value that JSON keeps unchanged. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [name: string]: Json }

/** The settings on which the log-probs depend, besides the data. */
export type ReferenceSettings = Record<string, Json>

/** One batch. */
export interface ReferenceLine extends BatchLogProbs {
  fingerprint: string
}

/** The content of a file. */
export interface ReferenceFile {
  settings: ReferenceSettings
  lines: ReferenceLine[]
  complete: boolean
  /** Bytes of whole lines; the rest is a line that was cut short. */
  bytes: number
}

/** A copy in which the names of objects are sorted, so that equal values have the same text. */
export function sorted(value: Json): Json {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(sorted)
  const entries = Object.entries(value).map(([name, inner]) => [name, sorted(inner)] as const)
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** A short hash of arrays, their kinds and their lengths. */
export function fingerprintOf(arrays: Record<string, ArrayLike<number | bigint> | undefined>): string {
  const hash = createHash('sha256')
  for (const [name, values] of Object.entries(arrays)) {
    if (values === undefined) continue
    const view = ArrayBuffer.isView(values) ? values : Float64Array.from(Array.from(values, Number))
    hash.update(`${name} ${view.constructor.name} ${view.byteLength} `)
    hash.update(new Uint8Array(view.buffer, view.byteOffset, view.byteLength))
  }
  return hash.digest('hex').slice(0, 32)
}

/**
 * Reads a file; undefined when there is no file, or when it holds only the start of a header with these `settings`.
 * @throws TypeError `ERR_INVALID_ARG_VALUE`, with the number of the line, for a file of another kind.
 */
export async function readReferenceFile(
  path: string,
  settings?: ReferenceSettings,
): Promise<ReferenceFile | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (settings && (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  if (settings && headerLine(settings).startsWith(text)) return undefined
  const end = text.lastIndexOf('\n') + 1
  const [header, ...rest] = text.slice(0, end).split('\n').slice(0, -1).map(parse)
  if (header?.format !== FORMAT || header.version !== VERSION) {
    throw invalidValue(path, `is not a file of reference log-probs of version ${VERSION}`)
  }
  const last = rest.at(-1)
  const complete = last?.complete === true
  const lines = (complete ? rest.slice(0, -1) : rest) as unknown as ReferenceLine[]
  for (const [i, line] of lines.entries()) checkLine(line, i)
  const pairs = lines.reduce((sum, { chosen }) => sum + chosen.length, 0)
  if (complete && last?.pairs !== pairs) {
    throw invalidValue(`${path}, line ${rest.length + 1},`, `ends ${last?.pairs} pairs, but the file has ${pairs}`)
  }
  return {
    settings: header.settings as ReferenceSettings,
    lines,
    complete,
    bytes: Buffer.byteLength(text.slice(0, end)),
  }

  function parse(line: string, i: number): Record<string, unknown> {
    try {
      return JSON.parse(line)
    } catch (error) {
      throw invalidValue(`${path}, line ${i + 1},`, `is not JSON: ${(error as Error).message}`)
    }
  }

  function checkLine({ fingerprint, chosen, rejected }: ReferenceLine, i: number): void {
    const areNumbers = [chosen, rejected].every((side) => Array.isArray(side) && side.every(Number.isFinite))
    if (typeof fingerprint !== 'string' || !areNumbers || chosen.length !== rejected.length) {
      throw invalidValue(`${path}, line ${i + 2},`, 'is not a batch of reference log-probs')
    }
  }
}

/** Truncates a file after its whole lines, or begins a new file with its header. */
export async function beginReferenceFile(
  path: string,
  existing: ReferenceFile | undefined,
  settings: ReferenceSettings,
): Promise<void> {
  await (existing ? truncate(path, existing.bytes) : writeFile(path, headerLine(settings)))
}

/** Adds a batch. */
export function appendReferenceLine(path: string, line: ReferenceLine): Promise<void> {
  return appendFile(path, `${JSON.stringify(line)}\n`)
}

/** Adds the last line. */
export function endReferenceFile(path: string, pairs: number): Promise<void> {
  return appendFile(path, `${JSON.stringify({ complete: true, pairs })}\n`)
}

function headerLine(settings: ReferenceSettings): string {
  return `${JSON.stringify({ format: FORMAT, version: VERSION, settings })}\n`
}
