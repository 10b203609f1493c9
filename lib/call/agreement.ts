/**
 * The agreement of ranks, at the beginning of a call that they make together and wherever one of them may have failed on
 * its own: each sends a header of one size, so that no rank waits for another that has thrown. A rank that cannot go on
 * says so in its header and throws its own error; all others throw `ERR_RANK_FAILED`, which names it.
 */
import { failure, invalidValue } from '../errors.js'
import type { Communicator } from '../types/index.js'
import { gather, runSteps, runStepsSync, type Steps } from './steps.js'

/** What a rank says of its part in a call. */
export interface Terms {
  /** The function, or what it does. */
  call: string
  /** Hashes of what must be equal on all ranks, by the names that an error has for it: at most {@link MOST_EQUAL}. */
  equal?: Readonly<Record<string, number>>
  /** Numbers that the others need: at most {@link MOST_NUMBERS}. */
  numbers?: readonly number[]
}

export const MOST_EQUAL = 8
export const MOST_NUMBERS = 8

/** Bytes that each rank sends: integers of 4 bytes, numbers of 8, and the message of an error in UTF-8. */
export const HEADER_BYTES = 320
const FAILED = 0
const TEXT_LENGTH = 4
const CALL = 8
const EQUAL = 12
const NUMBERS = 48
const TEXT = NUMBERS + 8 * MOST_NUMBERS

/**
 * Makes the terms of this rank and holds them against the others'; returns the numbers of all ranks. Where `terms` throws,
 * the other ranks are told, and its error is thrown.
 */
export function agree(communicator: Communicator, terms: () => Terms): Promise<number[][]> {
  return runSteps(agreement(communicator, terms))
}

/** {@link agree} on the calling thread. */
export function agreeSync(communicator: Communicator, terms: () => Terms): number[][] {
  return runStepsSync(agreement(communicator, terms))
}

/** The same as steps of a longer call. */
export function* agreement(communicator: Communicator, terms: () => Terms): Steps<number[][]> {
  const own = headerOf(terms)
  const headers = yield* gather(communicator, own.header)
  return numbersOf(headers, communicator.rank, own)
}

/** The header of a rank, with what it is made of. */
export interface OwnHeader {
  header: Uint8Array
  terms?: Terms
  /** Where making the terms has thrown. */
  problem?: { error: unknown }
}

/** The header to send. */
export function headerOf(terms: () => Terms): OwnHeader {
  const header = new Uint8Array(HEADER_BYTES)
  const view = new DataView(header.buffer)
  try {
    const found = terms()
    const { call, equal = {}, numbers = [] } = found
    view.setInt32(CALL, hashOfText(call), true)
    for (const [i, hash] of Object.values(equal).entries()) view.setInt32(EQUAL + 4 * i, hash, true)
    for (const [i, number] of numbers.entries()) view.setFloat64(NUMBERS + 8 * i, number, true)
    return { header, terms: found }
  } catch (error) {
    const { written } = new TextEncoder().encodeInto(textOf(error), header.subarray(TEXT))
    view.setInt32(FAILED, 1, true)
    view.setInt32(TEXT_LENGTH, written, true)
    return { header, problem: { error } }
  }
}

/**
 * The numbers in the headers of all ranks, `HEADER_BYTES` each. Throws this rank's own error, that of another, or one that
 * says in what the ranks differ.
 */
export function numbersOf(headers: Uint8Array, rank: number, { terms, problem }: OwnHeader): number[][] {
  if (problem) throw problem.error
  const views = Array.from({ length: headers.byteLength / HEADER_BYTES }, (_, r) => {
    return new DataView(headers.buffer, headers.byteOffset + r * HEADER_BYTES, HEADER_BYTES)
  })
  for (const [r, view] of views.entries()) {
    if (view.getInt32(FAILED, true) === 0) continue
    const text = headers.subarray(r * HEADER_BYTES + TEXT).subarray(0, view.getInt32(TEXT_LENGTH, true))
    throw failure('ERR_RANK_FAILED', `rank ${r} of ${views.length} has failed: ${new TextDecoder().decode(text)}`)
  }
  const { call, equal = {}, numbers = [] } = terms as Terms
  const own = views[rank]
  const differs = (at: number) => views.findIndex((view) => view.getInt32(at, true) !== own.getInt32(at, true))
  const refuse = (other: number, what: string) => {
    return invalidValue(
      'communicator',
      `rank ${other} differs from rank ${rank} in ${what}, which all ranks must share`,
    )
  }
  const caller = differs(CALL)
  if (caller >= 0) throw refuse(caller, `the function it calls, here ${call}`)
  for (const [i, name] of Object.keys(equal).entries()) {
    const other = differs(EQUAL + 4 * i)
    if (other >= 0) throw refuse(other, name)
  }
  return views.map((view) => numbers.map((_, i) => view.getFloat64(NUMBERS + 8 * i, true)))
}

/** A hash of 32-bit words, which goes on from another. */
export function hashOf(words: ArrayLike<number>, from = 0): number {
  let hash = from ^ 0x811c9dc5
  for (let i = 0; i < words.length; i++) {
    hash = Math.imul(hash ^ words[i], 0x01000193)
    hash ^= hash >>> 15
  }
  return hash
}

/** The same of a text. */
export function hashOfText(text: string, from = 0): number {
  return hashOf(new TextEncoder().encode(text), from)
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code } = error as { code?: unknown }
  return typeof code === 'string' ? `${code}: ${error.message}` : error.message
}
