/**
 * What ranks that share a vocabulary must have in common: everything about a job but the tensors, which columns they have,
 * and where it runs.
 */
import { NO_CODES } from '../backends/field-list.js'
import type { Codes, FieldVisitor } from '../backends/field-visitor.js'
import { visitFields } from '../backends/job-fields.js'
import type { Job } from '../job.js'
import { hashOf, hashOfText } from './agreement.js'

/** What an error says of the fields that begin with these words. */
const SUBJECTS = {
  tokens: 'labels or token options',
  policy: 'the outputs or sizes of the call',
  reference: 'the reference',
  loss: 'the loss, its constants, pairs or reference',
  unpairedLoss: 'the loss, its constants or reference',
  tokenLoss: 'the loss or its constants',
  gradient: 'the gradients or coefficients of the call',
  headGradient: 'the gradients of the call',
} as const

type Subject = keyof typeof SUBJECTS

/** Numbers that may differ: where elements lie, which columns there are, and what no bit depends on. */
const OF_TENSORS = /\.(?:dtype|vocab|batchStride|timeStride|rowStride|columnStride|shard\.start|logitsBudget)$/
const OF_ALL = /^(?:tokens\.shard\.vocab|headGradient\.dtype|.*\.hidden\.vocab)$/

/** Losses by their names. */
const CODES: Codes = { ...NO_CODES, lossOf: hashOfText, unpairedLossOf: hashOfText }

/** Hashes of a job, by what an error says of each. */
export function equalParts(job: Job): Record<string, number> {
  const hashes = new Map<string, number>(Object.values(SUBJECTS).map((subject) => [subject, 0]))
  const add = (name: string, words: ArrayLike<number>) => {
    const subject = SUBJECTS[name.slice(0, name.indexOf('.')) as Subject]
    if (subject !== undefined) hashes.set(subject, hashOf(words, hashOfText(name, hashes.get(subject))))
  }
  const addArray = (name: string, elements: string, array: unknown) => {
    if (array === undefined) return
    const isOwn = elements !== 'tensor' && elements !== 'address'
    add(name, isOwn ? wordsOf(array as Float64Array | Float32Array | Int32Array) : [])
  }
  const visitor: FieldVisitor = {
    part() {},
    in: addArray,
    out: addArray,
    number(name, value, owner) {
      const path = owner === undefined ? name : `${owner}.${name}`
      if (OF_ALL.test(path) || !OF_TENSORS.test(path)) add(path, wordsOf(Float64Array.of(value)))
    },
  }
  visitFields(visitor, job, { threads: 0 }, CODES)
  return Object.fromEntries(hashes)
}

function wordsOf({ buffer, byteOffset, byteLength }: Float64Array | Float32Array | Int32Array): Int32Array {
  return new Int32Array(buffer, byteOffset, byteLength / 4)
}
