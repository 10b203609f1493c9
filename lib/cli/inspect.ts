/**
 * `inspect`: what this machine has.
 */
import { parseArgs } from 'node:util'
import { getBackends } from '../get-backends.js'
import type { Command } from './command.js'

export const command: Command = {
  summary: 'print the backends of this machine, and why a missing one is missing (--json)',
  run(args) {
    const { values } = parseArgs({ args, options: { json: { type: 'boolean' } } })
    const backends = getBackends()
    if (values.json) {
      console.log(JSON.stringify(backends, null, 2))
      return 0
    }
    for (const [name, { available, ...facts }] of Object.entries(backends)) {
      console.log(`${name}: ${available ? 'available' : 'not available'}`)
      for (const [fact, value] of Object.entries(facts)) console.log(`  ${fact}: ${[value].flat().join(', ')}`)
    }
    return 0
  },
}
