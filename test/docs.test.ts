/**
 * What the documentation shows runs: the ```js blocks of README.md and of every page of docs/, a page being one
 * program, and the types of its ```ts blocks. A page may prepare its program in a comment:
 *
 *     <!-- setup: js
 *     const policy = …
 *     -->
 *
 * and with `setup: ts` declare modules that are not installed.
 */
import { execFile, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { LOSSES } from '../lib/backends/js/losses.js'
import { HEAD_GRADIENT_OPTIONS } from '../lib/call/head-gradients.js'
import { PAIRED_OPTIONS } from '../lib/call/paired-call.js'
import { CUDA } from './support.js' // which also lets the kernels run on the host

const root = fileURLToPath(new URL('..', import.meta.url))
const pages = [
  'README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.md'))
    .map((path) => `docs/${path.replaceAll('\\', '/')}`)
    .sort(),
]

/** What is run or checked, and languages of blocks that are only shown. */
const RUN = ['setup: js', 'setup: ts', 'js', 'ts']
const SHOWN = ['sh', 'diff', 'json', 'jsonl', 'text', 'html']

/** The blocks of a page by language, in order; those of setups under 'setup: js' and 'setup: ts'. */
function blocksOf(path: string): Record<string, string[]> {
  const text = readFileSync(join(root, path), 'utf8')
  const blocks: Record<string, string[]> = { 'setup: js': [], 'setup: ts': [], js: [], ts: [] }
  for (const [, kind, code] of text.matchAll(/^<!-- (setup: [jt]s)\n(.*?)^-->/gms)) blocks[kind].push(code)
  for (const [, , language, code] of text.matchAll(/^([ \t]*)```([^\n]*)\n(.*?)^\1```$/gms)) {
    blocks[language] ??= []
    blocks[language].push(code)
  }
  return blocks
}

/** Runs a program from the root of the repository, where the package is found by its own name. */
function run(program: string): Promise<{ code: number | null; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--input-type=module'], { cwd: root, stdio: ['pipe', 'ignore', 'pipe'] })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text
    })
    child.on('error', reject).on('close', (code) => resolve({ code, stderr }))
    child.stdin.end(program)
  })
}

const programs = pages
  .map((path) => ({ path, blocks: blocksOf(path) }))
  .map(({ path, blocks }) => ({ path, blocks, program: [...blocks['setup: js'], ...blocks.js].join('\n') }))

describe('every block of code', () => {
  test.each(programs)('of $path is of a known kind', ({ path, blocks }) => {
    const kinds = Object.keys(blocks).filter((language) => ![...RUN, ...SHOWN].includes(language))
    expect(kinds).toEqual([])
    // A fence that the pattern above has missed would not be run.
    const fences = readFileSync(join(root, path), 'utf8').match(/^[ \t]*(```|~~~)/gm)?.length ?? 0
    const fenced = Object.entries(blocks).filter(([kind]) => !kind.startsWith('setup'))
    expect(fences).toBe(2 * fenced.flatMap(([, each]) => each).length)
  })

  const runnable = programs.filter(({ path }) => CUDA.length > 0 || path !== 'docs/cuda.md')
  test.each(runnable.filter(({ blocks }) => blocks.js.length > 0))('of $path runs', async ({ program }) => {
    const { code, stderr } = await run(program)
    expect(code, stderr).toBe(0)
  })

  const typed = programs.filter(({ blocks }) => blocks.ts.length > 0)
  test.skipIf(typed.length === 0)('has the types it shows', async () => {
    // Inside the package, where its types are found by its own name.
    mkdirSync(join(root, 'build'), { recursive: true })
    const folder = mkdtempSync(join(root, 'build', 'docs-'))
    try {
      const files = typed.flatMap(({ path, blocks }) => {
        const name = path.replaceAll(/\W/g, '-')
        writeFileSync(join(folder, `${name}.mts`), blocks.ts.join('\n'))
        writeFileSync(join(folder, `${name}-setup.d.ts`), blocks['setup: ts'].join('\n'))
        return [`${name}.mts`, `${name}-setup.d.ts`]
      })
      const compilerOptions = {
        module: 'NodeNext',
        target: 'ES2022',
        strict: true,
        noEmit: true,
        skipLibCheck: true,
        types: ['node'],
      }
      writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }))
      const compiler = createRequire(import.meta.url).resolve('typescript/bin/tsc')
      const { stdout } = await promisify(execFile)(process.execPath, [compiler, '-p', folder]).catch((error) => error)
      expect(stdout).toBe('')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

test('links between the pages lead somewhere', () => {
  const broken = pages.flatMap((path) => {
    const text = readFileSync(join(root, path), 'utf8').replaceAll(/^[ \t]*```.*?^[ \t]*```$/gms, '')
    const links = [...text.matchAll(/\]\(([^)\s]+)\)/g), ...text.matchAll(/(?:src|srcset)="([^"]+)"/g)]
    return links
      .map(([, link]) => link)
      .filter((link) => !/^(https?:|#)/.test(link))
      .map((link) => join(root, path, '..', link.replace(/#.*/, '')))
      .filter((target) => !existsSync(target))
  })
  expect(broken).toEqual([])
})

test('every loss has its row in the README and its paragraph in docs/losses.md', () => {
  const [readme, losses] = ['README.md', 'docs/losses.md'].map((path) => readFileSync(join(root, path), 'utf8'))
  for (const name of Object.keys(LOSSES)) {
    expect(readme).toMatch(new RegExp(`^\\| \`${name}\``, 'm'))
    expect(losses).toMatch(new RegExp(`^\\*\\*.*\`${name}\`\\*\\*.*: `, 'm'))
  }
})

describe('the README names', () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8')
  const rows = Array.from(readme.matchAll(/^\| `(\w+)`/gm), ([, name]) => name)
  const sources = (folder: string) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((path) => /\.(ts|cc|cu|h)$/.test(path))
      .map((path) => readFileSync(join(root, folder, path), 'utf8'))
      .join('\n')

  test.each([...PAIRED_OPTIONS, ...HEAD_GRADIENT_OPTIONS, 'gradient', 'bias', 'pairWeights'])(
    'the option %s',
    (name) => {
      expect(readme).toMatch(new RegExp(`\`${name}\\b`))
    },
  )

  test('every code of an error', () => {
    const [, codes] = /export type ErrorCode =(.*?)\n\n/s.exec(sources('lib'))!
    const names = Array.from(codes.matchAll(/'(\w+)'/g), ([, code]) => code)
    expect(names.length).toBeGreaterThan(5)
    expect(rows.filter((name) => name.startsWith('ERR_')).sort()).toEqual(names.sort())
  })

  /** The codes of warnings: of those that are given once, and of those given elsewhere. */
  const warnings = (code: string) =>
    Array.from(code.matchAll(/(?:code: |^ {2}\| )'(FUSED_PREFERENCE_LOSS_\w+)'/gm), ([, warning]) => warning)

  test('every code of a warning', () => {
    const names = new Set(warnings(sources('lib')))
    expect(names.size).toBeGreaterThan(4)
    const written = Array.from(readme.matchAll(/^\| `…(\w+)`/gm), ([, name]) => `FUSED_PREFERENCE_LOSS_${name}`)
    expect(written.sort()).toEqual([...names].sort())
  })

  test('every variable of the environment', () => {
    const code = sources('lib') + sources('native')
    const names = new Set(
      Array.from(code.matchAll(/'(FUSED_PREFERENCE_LOSS_\w+)'|"(FUSED_PREFERENCE_LOSS_\w+)"/g), (m) => m[1] ?? m[2]),
    )
    for (const warning of warnings(code)) names.delete(warning)
    // The two that node-gyp-build reads.
    const wanted = [...names, 'FUSED_PREFERENCE_LOSS_PREBUILD', 'PREBUILDS_ONLY']
    expect(names.size).toBeGreaterThan(3)
    expect(rows.filter((name) => /^[A-Z_]+$/.test(name) && !name.startsWith('ERR_')).sort()).toEqual(wanted.sort())
  })
})
