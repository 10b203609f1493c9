/**
 * The shapes of preference data, and their conversion into one: a prompt and two completions, as text.
 */
import { sameJson } from '../check/json.js'
import { invalidType, invalidValue } from '../errors.js'
import { callersResult, invalidResult } from './callers.js'

/** A prompt and its two completions; fields besides these are kept as they came. */
export interface PreferenceRecord {
  prompt: string
  /** The better completion, without the prompt. */
  chosen: string
  /** The worse completion, without the prompt. */
  rejected: string
  [field: string]: unknown
}

/** The texts of a record. */
type Texts = Pick<PreferenceRecord, 'prompt' | 'chosen' | 'rejected'>

/** A turn of a conversation; whatever else it has, as `tool_calls` or `name`, is for the chat template. */
export interface ChatMessage {
  role: string
  content: string
  [field: string]: unknown
}

/**
 * A conversation as the text the model was trained on. An error it throws ends the reading; with `onError: 'skip'` it
 * skips the record, but for the engine's own errors (TypeError, RangeError and so on), which are faults in its code.
 * @param options `addGenerationPrompt`: end with what makes the assistant speak. The text of a prompt with it must be
 *   how the text of the whole conversation begins.
 */
export type ChatTemplate = (messages: readonly ChatMessage[], options: { addGenerationPrompt: boolean }) => string

const ASSISTANT = '\n\nAssistant:'

/** Roles of all others: the assistant's has more names than these. */
const OTHERS: ReadonlySet<unknown> = new Set([
  'user',
  'human',
  'system',
  'developer',
  'tool',
  'function',
  'ipython',
  'environment',
])

/**
 * Any of the known shapes as a record of texts:
 * - `{ prompt, chosen, rejected }`, all text;
 * - `{ chosen, rejected }`, both with the prompt inside, as in HH-RLHF: what they share, to the last "\n\nAssistant:";
 * - the same two with lists of `{ role, content }` in place of texts, given a chat template; `prompt` may stay text.
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
  if (typeof chosen === 'string' || typeof rejected === 'string') {
    const remedy = 'make them both lists, or all fields text'
    throw invalidValue(name, `mixes text and lists of messages in ${Object.keys(fields).join(', ')}: ${remedy}`)
  }
  if (chatTemplate === undefined) {
    throw invalidValue(`${name}.chosen`, 'is a list of messages: give options.chatTemplate, which makes text of one')
  }
  const { prompt: turns, ...completions } = conversationOf(fields, name)
  return { ...value, ...(renderChat(turns, completions, name, chatTemplate) as Texts) }
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

/** The turns before the completions, and theirs. */
interface Conversation {
  prompt: readonly ChatMessage[]
  chosen: readonly ChatMessage[]
  rejected: readonly ChatMessage[]
}

function conversationOf(fields: Record<string, unknown>, name: string): Conversation {
  checkMessages(fields, name)
  const { prompt, chosen, rejected } = fields as unknown as Conversation & { prompt?: string | ChatMessage[] }
  if (typeof prompt === 'string') return withPromptText(prompt, chosen, rejected, name)
  if (prompt === undefined) return split(chosen, rejected, name)
  if (prompt.length > 0) return { prompt, chosen, rejected }
  throw invalidValue(`${name}.prompt`, 'is an empty list: leave it out where chosen and rejected hold all turns')
}

/** Checks the messages of those fields that are lists. */
export function checkMessages(fields: Record<string, unknown>, name: string): void {
  for (const [field, messages] of Object.entries(fields)) {
    if (typeof messages === 'string') continue
    for (const [i, message] of (messages as unknown[]).entries()) checkMessage(message, `${name}.${field}[${i}]`)
  }
}

function checkMessage(message: unknown, name: string): void {
  if (typeof message !== 'object' || message === null || Array.isArray(message)) {
    throw invalidType(name, '{ role, content }, both text', message)
  }
  const { role, content } = message as Partial<ChatMessage>
  if (typeof role !== 'string') throw invalidType(`${name}.role`, 'text', role)
  if (typeof content !== 'string') {
    const remedy = Array.isArray(content) ? 'join its parts' : "'' where a turn only calls tools"
    throw invalidType(`${name}.content`, `text (${remedy})`, content)
  }
}

/** A prompt that is text, as in UltraFeedback, is a turn of the user's: in both lists, or before them. */
function withPromptText(
  text: string,
  chosen: readonly ChatMessage[],
  rejected: readonly ChatMessage[],
  name: string,
): Conversation {
  if (!asks(chosen[0]) && !asks(rejected[0])) return { prompt: [{ role: 'user', content: text }], chosen, rejected }
  const conversation = split(chosen, rejected, name)
  if (conversation.prompt.some((turn) => asks(turn) && turn.content.trim() === text.trim())) return conversation
  const remedy = 'leave it out, or make it a list of all turns before the completions'
  throw invalidValue(`${name}.prompt`, `is text that no turn before the completions has: ${remedy}`)
}

/**
 * Conversations that begin alike, split at the first turn that differs in any field. Where that is not the assistant's,
 * or one conversation ends there, the split is at the last turn of the assistant that both have: the assistant begins a
 * completion, as in text it begins after "\n\nAssistant:".
 */
function split(chosen: readonly ChatMessage[], rejected: readonly ChatMessage[], name: string): Conversation {
  const most = Math.min(chosen.length, rejected.length)
  let shared = 0
  while (shared < most && sameJson(chosen[shared], rejected[shared])) shared++
  let start = shared
  if (!answers(chosen[shared]) || !answers(rejected[shared])) {
    const last = chosen.slice(0, shared).findLastIndex(answers)
    if (last >= 0) start = last
  }
  if (start === 0) {
    throw invalidValue(name, 'has no turns before the completions: chosen and rejected share no first turn')
  }
  return { prompt: chosen.slice(0, start), chosen: chosen.slice(start), rejected: rejected.slice(start) }
}

/** Whether a turn is of anybody but the assistant. */
export function asks(message: ChatMessage | undefined): boolean {
  return message !== undefined && OTHERS.has(message.role.toLowerCase())
}

function answers(message: ChatMessage | undefined): boolean {
  return message !== undefined && !asks(message)
}

/** The texts of a prompt and of completions, each without the prompt's. */
export function renderChat(
  prompt: readonly ChatMessage[],
  completions: Readonly<Record<string, readonly ChatMessage[]>>,
  name: string,
  template: ChatTemplate,
): Record<string, string> {
  const render = (messages: readonly ChatMessage[], addGenerationPrompt: boolean, field: string): string => {
    const place = `${name}.${field}`
    const text: unknown = callersResult('options.chatTemplate', place, () =>
      template([...messages], { addGenerationPrompt }),
    )
    if (typeof text === 'string') return text
    throw invalidResult(`options.chatTemplate(${place})`, 'text, not token ids (tokenize: false) and no promise', text)
  }
  const start = render(prompt, true, 'prompt')
  const completion = (messages: readonly ChatMessage[], field: string): string => {
    if (messages.length === 0) return ''
    const text = render([...prompt, ...messages], false, field)
    if (text.startsWith(start)) return text.slice(start.length)
    if (asks(messages[0])) {
      const problem = `follows the prompt with a turn of '${messages[0].role}', where the assistant's must come`
      throw invalidValue(`${name}.${field}`, `${problem}: leave out a prompt that the lists begin with`)
    }
    throw invalidValue('options.chatTemplate', `makes a text of ${name}.${field} that does not begin with its prompt's`)
  }
  const texts: Record<string, string> = { prompt: start }
  for (const [field, messages] of Object.entries(completions)) texts[field] = completion(messages, field)
  return texts
}

/** The number of equal elements (or characters) at the start of two sequences. */
function sharedLength(a: ArrayLike<unknown>, b: ArrayLike<unknown>): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) length++
  return length
}
