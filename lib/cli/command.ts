import type { ParseArgsConfig } from 'node:util'

type ParseArgsOption = NonNullable<ParseArgsConfig['options']>[string]

/** An option of a command, as `parseArgs` of node:util takes it, with what the command's `--help` says of it. */
export interface Option extends ParseArgsOption {
  /** One line. */
  help: string
  /** What stands for the value of an option that takes one. */
  value?: string
}

/** A command of the command line. */
export interface Command {
  /** One line for the list of commands. */
  summary: string
  /** What follows the command's name and its options, as `--help` writes it. */
  operands?: string
  options: Record<string, Option>
  /**
   * @param args what follows the command's name; read with `readArguments`
   * @returns the exit code
   */
  run(args: string[]): number | Promise<number>
}
