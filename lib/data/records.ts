/**
 * The shapes preference data comes in, and the one they are brought into: a prompt and two completions, as text.
 */
import { invalidType, invalidValue } from '../errors.js'

/** A prompt and its two completions; fields besides these are kept as they came. */
export interface PreferenceRecord {
  prompt: string
  /** The better completion, without the prompt. */
  chosen: string
  /** The worse completion, without the prompt. */
  rejected: string
  [field: string]: unknown
}

/** A turn of a conversation. */
export interface ChatMessage {
  role: string
  content: string
}

/**
 * A conversation as the text the model was trained on.
 * @param options `addGenerationPrompt`: end with what makes the assistant speak. The text of a prompt with it must be
 *   how the text of the whole conversation begins.
 */
export type ChatTemplate = (messages: readonly ChatMessage[], options: { addGenerationPrompt: boolean }) => string

const ASSISTANT = '\n\nAssistant:'

/**
 * Any of the known shapes as a record of texts:
 * - `{ prompt, chosen, rejected }`, all text;
 * - `{ chosen, rejected }`, both with the prompt inside, as in HH-RLHF: what they share, to the last "\n\nAssistant:";
 * - the same two with lists of `{ role, content }` in place of texts, given a chat template.
 */
export function recordOf(value: Record<string, unknown>, name: string, chatTemplate?: ChatTemplate): PreferenceRecord {
  const { prompt, chosen, rejected } = value
  const wanted = 'text or a list of { role, content }'
  const fields: Record<string, unknown> = { chosen, rejected, ...(prompt === undefined ? {} : { prompt }) }
  for (const [field, content] of Object.entries(fields)) {
    if (typeof content !== 'string' && !Array.isArray(content)) throw invalidType(`${name}.${field}`, wanted, content)
  }
  if (Object.values(fields).every((content) => typeof content === 'string')) {
    return { ...value, ...(prompt === undefined ? splitText(value, name) : {}) } as PreferenceRecord
  }
  if (Object.values(fields).some((content) => typeof content === 'string')) {
    const remedy = 'make them all lists, or leave out a prompt that both lists begin with'
    throw invalidValue(name, `mixes text and lists of messages in ${Object.keys(fields).join(', ')}: ${remedy}`)
  }
  if (chatTemplate === undefined) {
    throw invalidValue(`${name}.chosen`, 'is a list of messages: give options.chatTemplate, which makes text of one')
  }
  return { ...value, ...renderChat(fields as Record<string, unknown[]>, name, chatTemplate) }
}

function splitText({ chosen, rejected }: Record<string, unknown>, name: string): PreferenceRecord {
  const [a, b] = [chosen as string, rejected as string]
  const marker = a.slice(0, sharedLength(a, b)).lastIndexOf(ASSISTANT)
  if (marker < 0) {
    const problem = `is missing, and chosen and rejected do not begin with the same text up to ${JSON.stringify(ASSISTANT)}`
    throw invalidValue(`${name}.prompt`, problem)
  }
  const end = marker + ASSISTANT.length
  return { prompt: a.slice(0, end), chosen: a.slice(end), rejected: b.slice(end) }
}

function renderChat(fields: Record<string, unknown[]>, name: string, template: ChatTemplate): PreferenceRecord {
  for (const [field, messages] of Object.entries(fields)) {
    for (const [i, message] of messages.entries()) checkMessage(message, `${name}.${field}[${i}]`)
  }
  const { prompt, chosen, rejected } = fields as Record<string, ChatMessage[]>
  // Without a prompt of its own, the turns that both begin with.
  const key = (messages: ChatMessage[]) => messages.map(({ role, content }) => JSON.stringify([role, content]))
  const shared = prompt === undefined ? sharedLength(key(chosen), key(rejected)) : 0
  const opening = prompt ?? chosen.slice(0, shared)
  if (opening.length === 0)
    throw invalidValue(`${name}.prompt`, 'is missing, and chosen and rejected share no first turn')
  const start = template(opening, { addGenerationPrompt: true })
  const completion = (messages: ChatMessage[], field: string): string => {
    const text = template([...opening, ...messages.slice(shared)], { addGenerationPrompt: false })
    if (!text.startsWith(start)) {
      throw invalidValue(
        'options.chatTemplate',
        `makes a text of ${name}.${field} that does not begin with its prompt's`,
      )
    }
    return text.slice(start.length)
  }
  return { prompt: start, chosen: completion(chosen, 'chosen'), rejected: completion(rejected, 'rejected') }
}

function checkMessage(message: unknown, name: string): void {
  const { role, content } = (typeof message === 'object' && message !== null ? message : {}) as Partial<ChatMessage>
  if (typeof role !== 'string' || typeof content !== 'string') {
    throw invalidType(name, '{ role, content }, both text', message)
  }
}

/** How many elements (or characters) two sequences begin with alike. */
function sharedLength(a: ArrayLike<unknown>, b: ArrayLike<unknown>): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) length++
  return length
}
