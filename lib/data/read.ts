/**
 * `readPreferences` and `readUnpairedPreferences`: the records of a JSON Lines file, one at a time.
 */
import { oneOf, optionsObject } from '../check/options.js'
import { invalidType, invalidValue } from '../errors.js'
import { isFault } from './callers.js'
import { type Line, linesOf, parseLine } from './json-lines.js'
import { type ChatTemplate, type PreferenceRecord, recordOf } from './records.js'
import { opened, type RecordSource } from './source.js'
import { type UnpairedRecord, unpairedRecordOf } from './unpaired-records.js'
import { type OnWarning, remember, warner } from './warnings.js'

/** Options of {@link readPreferences}. */
export interface ReadOptions {
  /** Turns lists of `{ role, content }` into text; needed for records that have them. */
  chatTemplate?: ChatTemplate | undefined
  /**
   * What a line that is no record does: end the reading with its error, or be skipped with a warning. A source that is
   * not JSON Lines, and a fault in the chat template (see {@link ChatTemplate}), end it in any case. Defaults to 'throw'.
   */
  onError?: 'throw' | 'skip' | undefined
  /**
   * Is given the error of every skipped line, with its `file` and `line`. Defaults to a warning of the process (in
   * browsers of the console) for each.
   */
  onWarning?: OnWarning | undefined
  /** What errors call the source. Defaults to its path or URL or the name of a `File`, or 'data' for a stream. */
  name?: string | undefined
}

const OPTIONS: ReadonlySet<string> = new Set(['chatTemplate', 'onError', 'onWarning', 'name'])
const ON_ERROR = ['throw', 'skip'] as const

/**
 * The records of a JSON Lines file as `{ prompt, chosen, rejected }`, read as they are asked for. Each line is one of
 * - `{ prompt, chosen, rejected }`, all text;
 * - `{ chosen, rejected }`, both with the prompt inside, as in HH-RLHF: it ends with the last "\n\nAssistant:" of what
 *   both begin with;
 * - the same two with lists of `{ role, content }` in place of texts (`chatTemplate`); `prompt` may stay text.
 * Other fields are kept. Blank lines do not count.
 *
 * @param source a path or an `http:` or `file:` URL (in browsers text is a URL, relative to the page), a `Blob` or
 *   `File`, the `Response` of `fetch`, or a stream of bytes or text, of the web or of Node.js (an unzipping one, say).
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE` for a line that is no record, with `file` and
 *   `line`, and for a source that is not JSON Lines or not to be had; the errors of the file system or the stream. All
 *   records before it have been given.
 */
export function readPreferences(source: RecordSource, options?: ReadOptions): AsyncGenerator<PreferenceRecord> {
  return recordsOf(source, options, recordOf)
}

/**
 * The records of a JSON Lines file as `{ prompt, completion, label }`, TRL's unpaired shape, read as they are asked for.
 * Prompt and completion are texts, or lists of `{ role, content }` (`chatTemplate`), before which the prompt may stay
 * text; `label` is true, or 1, where the completion is desirable. Other fields are kept. Blank lines do not count.
 *
 * @param source a path or an `http:` or `file:` URL (in browsers text is a URL, relative to the page), a `Blob` or
 *   `File`, the `Response` of `fetch`, or a stream of bytes or text, of the web or of Node.js (an unzipping one, say).
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`, RangeError `ERR_OUT_OF_RANGE` for a line that is no
 *   record, with `file` and `line`, and for a source that is not JSON Lines or not to be had; the errors of the file
 *   system or the stream. All records before it have been given.
 */
export function readUnpairedPreferences(source: RecordSource, options?: ReadOptions): AsyncGenerator<UnpairedRecord> {
  return recordsOf(source, options, unpairedRecordOf)
}

async function* recordsOf<Made extends object>(
  source: RecordSource,
  options: ReadOptions | undefined,
  make: (value: Record<string, unknown>, name: string, chatTemplate?: ChatTemplate) => Made,
): AsyncGenerator<Made> {
  const given = optionsObject(options, 'options', OPTIONS)
  const { chatTemplate } = given
  if (chatTemplate !== undefined && typeof chatTemplate !== 'function') {
    throw invalidType('options.chatTemplate', 'a function', chatTemplate)
  }
  const skips = oneOf(given.onError, 'options.onError', ON_ERROR, 'throw') === 'skip'
  const warn = warner(given.onWarning)
  if (given.name !== undefined && typeof given.name !== 'string') throw invalidType('options.name', 'text', given.name)
  const { name: file, chunks } = await opened(source, given.name)
  for await (const line of linesOf(chunks, file)) {
    const place = `${file}:${line.number}`
    let record: Made
    try {
      record = make(parse(line, place), place, chatTemplate)
    } catch (error) {
      const located = Object.assign(error as Error, { file, line: line.number })
      if (!skips || isFault(error)) throw located
      warn(located)
      continue
    }
    remember(record, place)
    yield record
  }
}

function parse(line: Line, place: string): Record<string, unknown> {
  try {
    return parseLine(line)
  } catch (error) {
    throw invalidValue(place, (error as Error).message)
  }
}
