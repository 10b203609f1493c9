/**
 * `writeReferenceLogProbs` and `readReferenceLogProbs` in a browser, which has no files.
 */
import { failure } from '../../errors.js'
import type * as node from './write-reference.js'

export const writeReferenceLogProbs: typeof node.writeReferenceLogProbs = async () => {
  throw noFiles('writeReferenceLogProbs writes a file', 'referenceLogProbs keeps the log-probs in memory')
}

export const readReferenceLogProbs: typeof node.readReferenceLogProbs = async () => {
  throw noFiles('readReferenceLogProbs reads a file', 'read it in Node.js and send the page its log-probs')
}

function noFiles(what: string, remedy: string) {
  return failure('ERR_FEATURE_UNAVAILABLE_ON_PLATFORM', `${what}, which a browser cannot: ${remedy}`)
}
