/**
 * The examples in the documentation run: every ```js block of README.md as a separate program, the blocks of a page of
 * docs/ together as one program, and the types of ```ts blocks are checked. A page of docs/ may prepare its program in
 * a comment:
 *
 *     <!-- setup: js
 *     const policy = …
 *     -->
 *
 * and with `setup: ts` declare modules that are not installed.
 *
 * The statements in it are true: the reference names every export, and figures and links match their sources.
 */
import { execFile, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { LOSSES } from '../lib/backends/js/losses.js'
import { fusedPreferenceLossSync } from '../lib/index.js'
import { rendered } from '../scripts/api.mjs'
import { pageOf } from '../scripts/links.mjs'
import { CUDA, WASM } from './support.js' // which also lets the kernels run on the host

const root = fileURLToPath(new URL('..', import.meta.url))
const pages = [
  'README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.md'))
    .map((path) => `docs/${path.replaceAll('\\', '/')}`)
    .sort(),
]

/** The languages of blocks that are run or checked, and of blocks that are only shown. */
const RUN = ['setup: js', 'setup: ts', 'js', 'ts']
const SHOWN = ['sh', 'diff', 'json', 'jsonl', 'text', 'html', 'python']

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

const readme = readFileSync(join(root, 'README.md'), 'utf8')

describe('every block of code', () => {
  test.each(programs)('of $path is of a known kind', ({ path, blocks }) => {
    const kinds = Object.keys(blocks).filter((language) => ![...RUN, ...SHOWN].includes(language))
    expect(kinds).toEqual([])
    // A fence that the pattern above has missed would not be run.
    const fences = readFileSync(join(root, path), 'utf8').match(/^[ \t]*(```|~~~)/gm)?.length ?? 0
    const fenced = Object.entries(blocks).filter(([kind]) => !kind.startsWith('setup'))
    expect(fences).toBe(2 * fenced.flatMap(([, each]) => each).length)
  })

  const { js: readmePrograms } = blocksOf('README.md')
  test.each(readmePrograms.map((program, i) => ({ program, i })))('of README.md runs by itself ($i)', async (block) => {
    const { code, stderr } = await run(block.program)
    expect(code, stderr).toBe(0)
  })

  /** Pages whose programs need more than the package. */
  const needs: Record<string, boolean> = {
    'docs/cuda.md': CUDA.length > 0,
    'docs/nccl.md': CUDA.length > 0 && existsSync(process.env.FUSED_PREFERENCE_LOSS_NCCL ?? ''),
    'docs/platforms.md': WASM.length > 0,
  }
  const runnable = programs.filter(({ path }) => path !== 'README.md' && needs[path] !== false)
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

describe('the README', () => {
  const lines = readme.trimEnd().split('\n')

  test('is short', () => {
    expect(lines.length).toBeLessThanOrEqual(120)
    expect(lines.filter((line) => [...line].length > 120)).toEqual([])
    expect(readme.split(/\s+/).length).toBeLessThanOrEqual(1300)
  })

  test('hides nothing that its programs need', () => {
    expect(readme).not.toContain('<!--')
  })

  test('links to files of the repository that package.json names, and to headings that are there', () => {
    const page = pageOf(JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')))
    const targets = Array.from(readme.matchAll(/^\[[\w-]+\]: (\S+)$/gm), ([, target]) => target)
    expect(targets.length).toBeGreaterThan(10)
    // npm would resolve some other forms of links against its own pages.
    expect(readme).not.toMatch(/\]\((?!#)|<(?:a|img) /)
    for (const target of targets) {
      const [file, heading] = target.replace(`${page}/blob/main/`, '').split('#')
      expect(pages.concat('CONTRIBUTING.md')).toContain(file)
      if (heading) expect(headingsOf(file)).toContain(heading)
    }
    const used = new Set(Array.from(readme.matchAll(/\]\[([\w-]+)\]/g), ([, name]) => name))
    const defined = Array.from(readme.matchAll(/^\[([\w-]+)\]: /gm), ([, name]) => name)
    expect(defined.sort()).toEqual([...used].sort())
  })

  test('has the figures of a run in bench/results', () => {
    const run = JSON.parse(readFileSync(join(root, 'bench/results/amd-epyc-zen4-2-cores-float32.json'), 'utf8'))
    const ratio = (name: string, peers: string[]) => {
      const { entries } = run.cases.find((one: { name: string }) => one.name === name)
      const ratios = entries.filter((e: { peer: string }) => peers.includes(e.peer))
      return Math.min(...ratios.map((entry: { ratio: number }) => entry.ratio))
    }
    const rows: [string, string[]][] = [
      ['PyTorch', ['torch-eager', 'torch-cross-entropy', 'torch-compile']],
      ['onnxruntime', ['onnxruntime']],
      ['jax-js', ['jax-js']],
      ['TensorFlow.js', ['tfjs-wasm', 'tfjs-wasm-custom', 'tfjs-cpu', 'tfjs-node']],
      ['plain JavaScript', ['plain-js']],
    ]
    for (const [title, peers] of rows) {
      const row = lines.find((line) => line.startsWith(`| ${title}`))!
      const written = Array.from(row.matchAll(/([\d.]+) \/ ([\d.]+)/g), ([, a, b]) => [a, b])
      expect(written.length).toBeGreaterThan(0)
      for (const [i, stage] of ['forward', 'step'].slice(0, written.length).entries()) {
        for (const [j, vocab] of ['32000', '128256'].entries()) {
          const measured = ratio(`${stage}-${vocab}-float32`, peers)
          expect(written[i][j]).toBe(measured.toFixed(measured < 10 ? 1 : 0))
        }
      }
    }
    expect(readme).toContain(
      `Version ${run.versions['fused-preference-loss']}, two cores of an AMD EPYC (Zen 4, AVX-512)`,
    )
  })

  test('shows the error of a wrong label as it is', () => {
    const labels = new Int32Array(8).fill(1)
    labels[3] = 50257
    const logits = { data: new Float32Array(8 * 50257), shape: [2, 4, 50257] }
    let message = ''
    try {
      fusedPreferenceLossSync(logits, labels, { lossType: 'cpo' })
    } catch (error) {
      message = (error as Error).message
    }
    expect(message).toMatch(/^labels: sequence 0, position 3 is 50257/)
    expect(readme).toContain(`\`${message}\``)
  })
})

/** The anchors of a page's headings, as GitHub makes them. */
function headingsOf(path: string): string[] {
  const text = readFileSync(join(root, path), 'utf8')
  return Array.from(text.matchAll(/^#+ (.*)$/gm), ([, heading]) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  )
}

test('headings that the pages link to are there', () => {
  const broken = [...pages, 'CONTRIBUTING.md', 'SECURITY.md'].flatMap((path) =>
    Array.from(readFileSync(join(root, path), 'utf8').matchAll(/\]\(([^)\s#:]*)#([^)\s]+)\)/g), ([, file, heading]) => {
      const target = file === '' ? path : join(path, '..', file)
      return headingsOf(target).includes(heading) ? '' : `${path}: ${file}#${heading}`
    }),
  )
  expect(broken.filter(Boolean)).toEqual([])
})

test('every loss has its formula and its paragraph in docs/losses.md', () => {
  const losses = readFileSync(join(root, 'docs/losses.md'), 'utf8')
  for (const name of Object.keys(LOSSES)) {
    expect(losses).toMatch(new RegExp(`^\\| \`${name}\``, 'm'))
    expect(losses).toMatch(new RegExp(`^\\*\\*.*\`${name}\`\\*\\*.*: `, 'm'))
  }
})

describe('CONTRIBUTING.md', () => {
  const text = readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8')

  test('is about two pages', () => {
    expect(text.split(/\s+/).length).toBeLessThanOrEqual(1500)
  })

  test('walks through symbols that are where it says', () => {
    const steps = Array.from(text.matchAll(/`(\w+)`\s+in\s+`([\w/.-]+\.\w+)`/g), ([, symbol, file]) => ({
      symbol,
      file,
    }))
    expect(steps.length).toBeGreaterThan(15)
    const missing = steps.filter(({ symbol, file }) => {
      // A function, a method, a type, an interface or a constant of that name.
      const declared = new RegExp(`(^|[ *&:])${symbol}(\\(|<| =|:| \\{| implements)`, 'm')
      return !existsSync(join(root, file)) || !declared.test(readFileSync(join(root, file), 'utf8'))
    })
    expect(missing).toEqual([])
  })

  test('names files and folders that are there', () => {
    const paths = Array.from(text.matchAll(/`((?:lib|native|test|scripts|docs|bench)\/[\w/.-]*)`/g), ([, path]) => path)
    expect(paths.length).toBeGreaterThan(20)
    expect(paths.filter((path) => !existsSync(join(root, path)))).toEqual([])
  })

  test('draws the floors between which imports run one way', () => {
    const [, drawn] = /from each line down:\n\n```\n(.*?)```/s.exec(text)!
    const floors = drawn
      .trim()
      .split('\n')
      .map((line) => line.slice(0, 32).trim().split(/\s+/))
    const [, checked] = /const LIBRARY = (\[.*?\n\])/s.exec(readFileSync(join(root, 'test/layers.test.ts'), 'utf8'))!
    expect(floors).toEqual(JSON.parse(checked.replaceAll("'", '"').replaceAll(/,\s*\]/g, ']')))
  })
})

describe('docs/api.md', () => {
  const page = readFileSync(join(root, 'docs/api.md'), 'utf8')

  test('is what npm run docs:api makes of the types and errors', async () => {
    expect(await rendered(page)).toBe(page)
  })

  test('has a table of every kind of option', () => {
    for (const option of [
      'shift',
      'ldAlpha',
      'lossType',
      'normalizer',
      'threads',
      'gradient',
      'accumulate',
      'tokenizer',
    ]) {
      expect(page).toMatch(new RegExp(`^\\| \`${option}\` \\| \`.*\`ERR_\\w+: options\\.`, 'm'))
    }
  })

  const rows = Array.from(page.matchAll(/^\| `(\w+)`/gm), ([, name]) => name)
  const sources = (folder: string) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((path) => /\.(ts|cc|cu|h)$/.test(path))
      .map((path) => readFileSync(join(root, folder, path), 'utf8'))
      .join('\n')

  test('has a row for every code of an error', () => {
    const [, codes] = /export type ErrorCode =(.*?)\n\n/s.exec(sources('lib'))!
    const names = Array.from(codes.matchAll(/'(\w+)'/g), ([, code]) => code)
    expect(names.length).toBeGreaterThan(5)
    expect(rows.filter((name) => name.startsWith('ERR_')).sort()).toEqual(names.sort())
  })

  /** The codes of warnings: of warnings given once, and of other warnings. */
  const warnings = (code: string) =>
    Array.from(code.matchAll(/(?:code: |^ {2}\| )'(FUSED_PREFERENCE_LOSS_\w+)'/gm), ([, warning]) => warning)

  test('has a row for every code of a warning', () => {
    const names = new Set(warnings(sources('lib')))
    expect(names.size).toBeGreaterThan(4)
    const written = Array.from(page.matchAll(/^\| `…(\w+)`/gm), ([, name]) => `FUSED_PREFERENCE_LOSS_${name}`)
    expect(written.sort()).toEqual([...names].sort())
  })

  test('has a row for every variable of the environment', () => {
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
