/**
 * `plot`: the curves of training runs as one HTML page.
 */
import { existsSync, realpathSync, writeFileSync } from 'node:fs'
import { invalidValue } from '../errors.js'
import { readArguments, WrongUse } from './arguments.js'
import type { Command, Option } from './command.js'
import { pageOf } from './plot/html.js'
import { namesOf } from './plot/names.js'
import { readRun } from './plot/runs.js'

const OPTIONS = {
  output: { type: 'string', short: 'o', value: 'FILE', help: 'the page; beside the first run by default' },
} satisfies Record<string, Option>

export const command: Command = {
  summary: 'draw the curves of runs in JSON Lines files as one HTML page',
  operands: 'run.jsonl [more.jsonl …]',
  options: OPTIONS,
  async run(args) {
    const { values, positionals } = readArguments(args, OPTIONS, true)
    if (positionals.length === 0) throw new WrongUse('which run? Give one or more JSON Lines files')
    const output = values.output ?? `${positionals[0].replace(/\.jsonl?$/, '')}.html`
    const same = (path: string) => existsSync(path) && existsSync(output) && realpathSync(path) === realpathSync(output)
    if (positionals.some(same)) throw invalidValue('--output', `would overwrite the run ${output}`)

    const names = namesOf(positionals)
    const runs = []
    for (const [i, path] of positionals.entries()) runs.push(await readRun(path, names[i]))
    for (const note of runs.flatMap(({ notes }) => notes)) console.error(note)
    writeFileSync(output, pageOf(runs))
    console.log(output)
    return 0
  },
}
