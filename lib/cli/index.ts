#!/usr/bin/env node
/**
 * The command line, `npx fused-preference-loss <command>`: one file per command, loaded when it is asked for.
 */
import { closest } from 'fastest-levenshtein'
import type { Command } from './command.js'

const COMMANDS: Record<string, () => Promise<{ command: Command }>> = {
  inspect: () => import('./inspect.js'),
  plot: () => import('./plot.js'),
  build: () => import('./build.js'),
  bench: () => import('./bench.js'),
}

const EXIT_WRONG_USE = 2

async function main([name, ...args]: string[]): Promise<number> {
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    console.log(await usage())
    return name === undefined ? EXIT_WRONG_USE : 0
  }
  const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (load === undefined) {
    console.error(`'${name}' is not a command; did you mean '${closest(name, Object.keys(COMMANDS))}'?`)
    return EXIT_WRONG_USE
  }
  try {
    return await (await load()).command.run(args)
  } catch (error) {
    const wrongUse = (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS') === true
    console.error(`fused-preference-loss ${name}: ${error instanceof Error ? error.message : String(error)}`)
    return wrongUse ? EXIT_WRONG_USE : 1
  }
}

async function usage(): Promise<string> {
  const lines = ['Usage: fused-preference-loss <command> [options]', '']
  for (const [name, load] of Object.entries(COMMANDS)) {
    const { command } = await load()
    lines.push(`  ${name.padEnd(10)}${command.summary}`)
  }
  return lines.join('\n')
}

// Not process.exit: what is still on its way to a pipe would be lost.
main(process.argv.slice(2)).then((code) => {
  process.exitCode = code
})
