/**
 * How commands read their command lines. A command line that makes no sense throws a `WrongUse`.
 */
import { parseArgs } from 'node:util'
import { meant } from '../check/suggestions.js'
import type { Option } from './command.js'

/** A command line that makes no sense: exit code 2. */
export class WrongUse extends Error {}

/** Every command has it; `asksForHelp` looks for it before the command runs. */
export const HELP = { help: { type: 'boolean', short: 'h', help: 'print this text' } } satisfies Record<string, Option>

/** Whether the command line of a command with these options asks for help. */
export function asksForHelp(args: string[], options: Record<string, Option>): boolean {
  const { values } = parseArgs({ args, options: { ...options, ...HELP }, strict: false, allowPositionals: true })
  return values.help !== undefined
}

/** The values of the options, and the operands where a command takes any. */
export function readArguments<const O extends Record<string, Option>>(
  args: string[],
  options: O,
  allowPositionals = false,
) {
  const { tokens } = parseArgs({ args, options, strict: false, allowPositionals: true, tokens: true })
  for (const token of tokens) {
    if (token.kind !== 'option' || Object.hasOwn(options, token.name)) continue
    const known = Object.keys({ ...options, ...HELP })
    throw unknownName(
      token.rawName,
      'option',
      known.map((name) => `--${name}`),
    )
  }
  try {
    return parseArgs({ args, options, allowPositionals })
  } catch (error) {
    throw new WrongUse((error as Error).message)
  }
}

/** The value of the option `name`: an integer from `low` to `high`, written in digits. */
export function readInteger(name: string, text: string, low: number, high: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= low && value <= high)) {
    throw new WrongUse(`--${name} must be an integer from ${low} to ${high}; got '${text}'`)
  }
  return value
}

/** The error for a name that is not among `names`: it shows the similar one, or else all of them. */
export function unknownName(name: string, what: 'command' | 'option', names: readonly string[]): WrongUse {
  const similar = meant(name, names)
  const hint = similar
    ? `did you mean '${similar}'?`
    : `the ${what}s are ${names.slice(0, -1).join(', ')} and ${names.at(-1)}`
  return new WrongUse(`'${name}' is not ${what === 'option' ? 'an' : 'a'} ${what}; ${hint}`)
}
