/**
 * `inspect`: prints the facts that a bug report needs: the machine, the backends, and which native binary was loaded or
 * why none was.
 */
import { cpus } from 'node:os'
import { findAddon } from '../backends/cpu/index.js'
import { platformOfBinary } from '../backends/cpu/load-addon.js'
import { getBackends } from '../functions/get-backends.js'
import { readArguments } from './arguments.js'
import type { Command, Option } from './command.js'
import { manifest } from './package-root.js'

const OPTIONS = {
  json: { type: 'boolean', help: 'print one JSON object' },
} satisfies Record<string, Option>

export const command: Command = {
  summary: 'print versions, platform, backends and the binary that was loaded',
  options: OPTIONS,
  run(args) {
    const { values } = readArguments(args, OPTIONS)
    const facts = inspect()
    console.log(values.json ? JSON.stringify(facts, null, 2) : text(facts))
    return 0
  },
}

function inspect() {
  const { bun, deno, node, napi } = process.versions
  const runtime = bun ? `Bun ${bun}` : deno ? `Deno ${deno}` : `Node.js ${node}`
  const { folder, libc } = platformOfBinary()
  const processors = cpus()
  const { tried } = findAddon()
  return {
    version: manifest.version,
    runtime,
    nodeApi: napi,
    platform: folder,
    libc: [libc, glibcVersion()].filter(Boolean).join(' '),
    processor: processors[0]?.model.trim(),
    processors: processors.length,
    binary: tried.find(({ problem }) => problem === undefined)?.path,
    tried,
    backends: getBackends(),
  }
}

function glibcVersion(): string | undefined {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined
  return report?.header?.glibcVersionRuntime
}

/** The facts as lines, lists as indented ones. */
function text(facts: object, indent = ''): string {
  const lines: string[] = []
  for (const [name, value] of Object.entries(facts)) {
    if (value === undefined || value === '') continue
    if (name === 'tried') {
      lines.push('tried:')
      for (const { path, problem } of value) lines.push(`  ${path}: ${problem ?? 'loaded'}`)
    } else if (name === 'backends') {
      for (const [backend, { available, ...rest }] of Object.entries<{ available: boolean }>(value)) {
        lines.push(`${backend}: ${available ? 'available' : 'not available'}`, text(rest, '  '))
      }
    } else if (Array.isArray(value) && typeof value[0] === 'object') {
      for (const [i, item] of value.entries()) lines.push(`${indent}${name} ${i}:`, text(item, `${indent}  `))
    } else {
      lines.push(`${indent}${name}: ${[value].flat().join(', ').replaceAll('\n', `\n${indent}  `)}`)
    }
  }
  return lines.filter(Boolean).join('\n')
}
