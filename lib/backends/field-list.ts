/**
 * The list of a job's fields, in words, which native code has as well: what is loaded is held against it.
 */
import { type Job, MOST_TERMS } from '../job.js'
import type { Codes, FieldVisitor } from './field-visitor.js'
import { DTYPES, visitFields } from './job-fields.js'
import { DIVERGENCES, SFT_NORMALIZATIONS } from './loss-fields.js'

/** Codes for visitors that do not look at numbers. */
export const NO_CODES: Codes = {
  lossOf: () => 0,
  unpairedLossOf: () => 0,
  instructionSetOf: () => 0,
  threadsOf: () => 0,
}

/** A line for each field. */
const FIELDS = listFields()

/** How many fields a job with one loss has. */
export const FIELD_COUNT = FIELDS.length

/** How many fields a job may have. */
export const MOST_FIELDS = FIELD_COUNT + 3 * (MOST_TERMS - 1)

/** Everything on which native code must agree, as text. */
export function sharedFields(): string {
  const lines = [
    ...FIELDS,
    `dtypes ${Object.keys(DTYPES).join(' ')}`,
    `divergences ${Object.keys(DIVERGENCES).join(' ')}`,
    `sft normalizations ${Object.keys(SFT_NORMALIZATIONS).join(' ')}`,
    `most terms ${MOST_TERMS}`,
  ]
  return `${lines.join('\n')}\n`
}

/** Lists the fields of a job with every part, and records where the parts begin. */
function listFields(): string[] {
  const rows = {}
  const head = { hidden: rows, weight: {}, bias: {} }
  const job = {
    tokens: { labels: {} },
    policy: { logits: rows, head, segments: {} },
    reference: { logits: rows, head, segments: {} },
    loss: { constants: { terms: [{}] }, pairConstants: {} },
    unpairedLoss: {},
    given: {},
    tokenLoss: {},
    gradient: { logits: rows, out: rows, tokenCoefficients: {} },
    headGradient: { logits: rows, head },
    exchange: {},
  } as unknown as Job
  const lines: string[] = []
  const list: FieldVisitor = {
    part(part) {
      part.begin = lines.length
    },
    in: (name, elements) => lines.push(`in ${name} ${elements}`),
    out: (name, elements) => lines.push(`out ${name} ${elements}`),
    number: (name, _value, owner) => lines.push(`number ${owner === undefined ? name : `${owner}.${name}`}`),
  }
  visitFields(list, job, { threads: 0 }, NO_CODES)
  return lines
}
