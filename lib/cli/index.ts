#!/usr/bin/env node
/**
 * The command line, `npx fused-preference-loss <command>`: one file per command, loaded when it is asked for.
 */
import { asksForHelp, HELP, unknownName, WrongUse } from './arguments.js'
import type { Command, Option } from './command.js'
import { manifest } from './package-root.js'

const PROGRAM = 'fused-preference-loss'
const COMMANDS: Record<string, () => Promise<{ command: Command }>> = {
  inspect: () => import('./inspect.js'),
  plot: () => import('./plot.js'),
  build: () => import('./build.js'),
  bench: () => import('./bench.js'),
}
const OPTIONS: Record<string, Option> = {
  version: { type: 'boolean', short: 'v', help: 'print the version of the package' },
  help: { ...HELP.help, help: `print this text; \`${PROGRAM} <command> --help\` explains a command` },
}

const EXIT_WRONG_USE = 2

async function main(args: string[]): Promise<number> {
  const [name] = args
  try {
    return await obey(args)
  } catch (error) {
    const command = name !== undefined && Object.hasOwn(COMMANDS, name) ? ` ${name}` : ''
    console.error(`${PROGRAM}${command}: ${error instanceof Error ? error.message : String(error)}`)
    return error instanceof WrongUse ? EXIT_WRONG_USE : 1
  }
}

async function obey([name, ...args]: string[]): Promise<number> {
  if (name === undefined) {
    console.error(await usage())
    return EXIT_WRONG_USE
  }
  if (name === '--version' || name === '-v') {
    console.log(manifest.version)
    return 0
  }
  if (name === '--help' || name === '-h' || name === 'help') {
    console.log(args.length === 0 ? await usage() : usageOf(args[0], await find(args[0])))
    return 0
  }
  if (name.startsWith('-'))
    throw unknownName(
      name,
      'option',
      Object.keys(OPTIONS).map((option) => `--${option}`),
    )
  const command = await find(name)
  if (!asksForHelp(args, command.options)) return command.run(args)
  console.log(usageOf(name, command))
  return 0
}

async function find(name: string): Promise<Command> {
  if (!Object.hasOwn(COMMANDS, name)) throw unknownName(name, 'command', Object.keys(COMMANDS))
  return (await COMMANDS[name]()).command
}

async function usage(): Promise<string> {
  const lines = [`Usage: ${PROGRAM} <command> [options]`, '']
  for (const name of Object.keys(COMMANDS)) lines.push(`  ${name.padEnd(10)}${(await find(name)).summary}`)
  return [...lines, '', ...explained(OPTIONS)].join('\n')
}

function usageOf(name: string, { summary, operands, options }: Command): string {
  const line = ['Usage:', PROGRAM, name, '[options]', operands].filter(Boolean).join(' ')
  return [line, '', summary, '', ...explained({ ...options, ...HELP })].join('\n')
}

/** A line for each option. */
function explained(options: Record<string, Option>): string[] {
  const columns = Object.entries(options).map(([name, { short, value, help }]) => ({
    left: `${short ? `-${short}, ` : ''}--${name}${value ? ` ${value}` : ''}`,
    help,
  }))
  const width = Math.max(...columns.map(({ left }) => left.length)) + 2
  return columns.map(({ left, help }) => `  ${left.padEnd(width)}${help}`)
}

// Not process.exit: it would lose output that is still on its way to a pipe.
main(process.argv.slice(2)).then((code) => {
  process.exitCode = code
})
