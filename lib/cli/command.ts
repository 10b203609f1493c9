import type { ParseArgsConfig } from 'node:util'

type ParseArgsOption = NonNullable<ParseArgsConfig['options']>[string]

/** An option of a command, as `parseArgs` of node:util takes it, with its line in the command's `--help`. */
export interface Option extends ParseArgsOption {
  /** One line. */
  help: string
  /** The placeholder for the value, if the option takes one. */
  value?: string
}

/** A command of the command line. */
export interface Command {
  /** One line for the list of commands. */
  summary: string
  /** The operands, as `--help` writes them after the command's name and options. */
  operands?: string
  options: Record<string, Option>
  /**
   * @param args the words after the command's name; read with `readArguments`
   * @returns the exit code
   */
  run(args: string[]): number | Promise<number>
}
