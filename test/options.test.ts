/**
 * Token and loss options are declared once: every function and adapter knows each option by its declared name, and its
 * docstring states its default.
 */
import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { describe, expect, test } from 'vitest'
import { writeReferenceLogProbs } from '../lib/adapters/onnxruntime/index.js'
import {
  fusedLinearPreferenceLossSync,
  fusedPreferenceLossSync,
  linearSequenceLogProbsSync,
  preferenceLossSync,
  sequenceLogProbsSync,
} from '../lib/index.js'
import { LOSS_OPTIONS, lossOptions } from '../lib/options/loss-options.js'
import type { Option } from '../lib/options/option.js'
import { TOKEN_ARRAYS, TOKEN_OPTIONS, tokenOptions } from '../lib/options/token-options.js'

const TABLES = {
  'token-options.ts': tokenOptions as unknown as Record<string, Option<unknown> & { name: string }>,
  'loss-options.ts': lossOptions as unknown as Record<string, Option<unknown> & { name: string }>,
}

const logits = { data: new Float32Array(2 * 3 * 5), shape: [2, 3, 5] }
const hidden = { data: new Float32Array(2 * 3 * 4), shape: [2, 3, 4] }
const weight = { data: new Float32Array(5 * 4), shape: [5, 4] }
const labels = Int32Array.of(1, 2, 3, 1, 2, 3)
const reference = { chosen: [-1], rejected: [-2] }
const pairs = { chosen: [-1], rejected: [-2], referenceChosen: [-1], referenceRejected: [-2] }

const FUNCTIONS: [string, readonly string[], (options: object) => unknown][] = [
  ['sequenceLogProbs', TOKEN_OPTIONS, (options) => sequenceLogProbsSync(logits, labels, options)],
  ['linearSequenceLogProbs', TOKEN_OPTIONS, (options) => linearSequenceLogProbsSync(hidden, weight, labels, options)],
  ['preferenceLoss', LOSS_OPTIONS, (options) => preferenceLossSync(pairs, options)],
  [
    'fusedPreferenceLoss',
    [...TOKEN_OPTIONS, ...LOSS_OPTIONS],
    (options) => fusedPreferenceLossSync(logits, labels, { reference, ...options }),
  ],
  [
    'fusedLinearPreferenceLoss',
    [...TOKEN_OPTIONS, ...LOSS_OPTIONS],
    (options) => fusedLinearPreferenceLossSync(hidden, weight, labels, { reference, ...options }),
  ],
]

describe.each(FUNCTIONS)('%s', (_, names, call) => {
  const others = [...TOKEN_OPTIONS, ...LOSS_OPTIONS].filter((name) => !names.includes(name))

  test.each(names)('takes %s', (name) => {
    expect(() => call({ [name]: undefined })).not.toThrow()
  })

  test.skipIf(others.length === 0).each(others)('has no %s', (name) => {
    expect(() => call({ [name]: undefined })).toThrow(`options.${name} is not an option`)
  })
})

describe('writeReferenceLogProbs', () => {
  const path = join(tmpdir(), 'never-written.jsonl')
  const refusal = async (options: object): Promise<string> => {
    const nothing = () => writeReferenceLogProbs(path, [], () => Promise.reject(new Error('no model')), options)
    return nothing().then(
      () => '',
      (error: Error) => error.message,
    )
  }

  test.each(TOKEN_OPTIONS)('takes %s as a setting of the file, or says why not', async (name) => {
    const isSetting = !TOKEN_ARRAYS.includes(name as never) && name !== 'outputs'
    const value = isSetting ? tokenOptions[name].byDefault : 0
    // Settings are checked before the batches; here there are no batches.
    expect(await refusal({ [name]: value })).toMatch(
      isSetting ? /batch/ : new RegExp(`^options.${name} is not taken: `),
    )
    expect(await refusal({ [name]: value })).not.toMatch(/is not an option/)
  })
})

/** The docstring above each option of a file. */
function docstrings(file: string): Map<string, string> {
  const path = fileURLToPath(new URL(`../lib/options/${file}`, import.meta.url))
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest, true)
  const found = new Map<string, string>()
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && node.expression.getText() === 'optionTable') {
      for (const property of (node.arguments[0] as ts.ObjectLiteralExpression).properties) {
        const [doc] = ts.getJSDocCommentsAndTags(property)
        found.set(property.name!.getText(), ts.getTextOfJSDocComment(doc?.comment)?.replaceAll(/\s+/g, ' ') ?? '')
      }
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

describe.each(Object.entries(TABLES))('%s', (file, table) => {
  const docs = docstrings(file)

  test('has a docstring for each option', () => {
    expect([...docs.keys()]).toEqual(Object.keys(table))
    expect([...docs].filter(([, doc]) => doc === '')).toEqual([])
  })

  test.each(Object.keys(table))('%s goes by its name in errors', (name) => {
    expect(table[name].name).toBe(`options.${name}`)
  })

  const scalars = Object.keys(table).filter((name) =>
    ['string', 'number', 'boolean'].includes(typeof table[name].byDefault),
  )
  test.each(scalars)('the docstring of %s says its default', (name) => {
    const { byDefault } = table[name]
    const written = typeof byDefault === 'string' ? `'${byDefault}'` : String(byDefault)
    const [, said] = /Defaults to ([^,. ]+(?:\.\d+)?)/.exec(docs.get(name)!) ?? []
    expect(said).toBe(written)
    expect(table[name].read(undefined)).toBe(byDefault)
    expect(table[name].read(byDefault)).toBe(byDefault)
  })
})
