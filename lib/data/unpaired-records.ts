/**
 * Records of single completions that are desirable or not, TRL's unpaired preference data, as text.
 */
import { invalidType, invalidValue, outOfRange } from '../errors.js'
import { asks, type ChatMessage, type ChatTemplate, checkMessages, renderChat } from './records.js'

/** A prompt and a completion, and whether that is desirable; fields besides these are kept as they came. */
export interface UnpairedRecord {
  prompt: string
  /** Without the prompt. */
  completion: string
  label: boolean
  [field: string]: unknown
}

/**
 * `{ prompt, completion, label }` as a record of texts: of two texts; of two lists of `{ role, content }`, given a chat
 * template; or of a text, then a turn of the user's, and such a list.
 */
export function unpairedRecordOf(
  value: Record<string, unknown>,
  name: string,
  chatTemplate?: ChatTemplate,
): UnpairedRecord {
  const { prompt, completion } = value
  const label = labelOf(value.label, `${name}.label`)
  const fields = { prompt, completion }
  for (const [field, content] of Object.entries(fields)) {
    if (typeof content !== 'string' && !Array.isArray(content)) {
      throw invalidType(`${name}.${field}`, 'text or a list of { role, content }', content)
    }
  }
  if (typeof completion === 'string') {
    if (typeof prompt === 'string') return { ...value, prompt, completion, label }
    throw invalidValue(name, 'has a list of messages for the prompt and text for the completion: make both lists')
  }
  if (chatTemplate === undefined) {
    throw invalidValue(
      `${name}.completion`,
      'is a list of messages: give options.chatTemplate, which makes text of one',
    )
  }
  checkMessages(fields, name)
  const turns = typeof prompt === 'string' ? [{ role: 'user', content: prompt }] : (prompt as ChatMessage[])
  if (turns.length === 0) throw invalidValue(`${name}.prompt`, 'is an empty list: there must be a turn to answer')
  const answer = completion as ChatMessage[]
  if (typeof prompt === 'string' && asks(answer[0])) {
    const remedy = 'make the prompt a list of all turns before the completion'
    throw invalidValue(
      `${name}.prompt`,
      `is text, and the completion begins with a turn of '${answer[0].role}': ${remedy}`,
    )
  }
  const texts = renderChat(turns, { completion: answer }, name, chatTemplate)
  return { ...value, prompt: texts.prompt, completion: texts.completion, label }
}

/** true, false, 1 or 0 as a boolean. */
export function labelOf(value: unknown, name: string): boolean {
  if (typeof value === 'boolean') return value
  const wanted = 'true or false, or 1 or 0'
  if (typeof value !== 'number') throw invalidType(name, wanted, value)
  if (value !== 0 && value !== 1) throw outOfRange(name, wanted, value)
  return value === 1
}
