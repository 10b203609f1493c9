/**
 * `plot`: the curves of training runs as one HTML page.
 */
import { existsSync, realpathSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { invalidValue } from '../errors.js'
import type { Command } from './command.js'
import { pageOf } from './plot/html.js'
import { readRun } from './plot/runs.js'

export const command: Command = {
  summary: 'draw runs kept as JSON Lines: plot run.jsonl [more.jsonl …] [-o run.html]',
  async run(args) {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { output: { type: 'string', short: 'o' } },
    })
    if (positionals.length === 0) {
      throw Object.assign(new Error('which run? Give one or more JSON Lines files'), { code: 'ERR_PARSE_ARGS_NO_FILE' })
    }
    const output = values.output ?? `${positionals[0].replace(/\.jsonl?$/, '')}.html`
    const same = (path: string) => existsSync(path) && existsSync(output) && realpathSync(path) === realpathSync(output)
    if (positionals.some(same)) throw invalidValue('--output', `would overwrite the run ${output}`)

    const runs = []
    for (const path of positionals) runs.push(await readRun(path))
    for (const note of runs.flatMap(({ notes }) => notes)) console.error(note)
    writeFileSync(output, pageOf(runs))
    console.log(output)
    return 0
  },
}
