/**
 * Imports run one way: from the public functions to the backends, and from the addon to the core. No import points
 * back. What browsers load imports no modules of Node.js.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))

/** The layers from the top down; a folder may import from folders in lower layers and from itself. */
const LIBRARY = [
  ['cli'],
  ['adapters', 'cuda', 'webgpu', 'distributed'],
  ['index', 'data', 'metrics'],
  ['functions'],
  ['call'],
  ['backends'],
  ['job', 'options'],
  ['check', 'job-losses', 'job-shards'],
  ['errors', 'types'],
]
/** Imports of values and of types, re-exports, `import('…')`. */
const IMPORT = /(?:from |import |import\()'(\.[^']+)'/g
const NATIVE = [['addon', 'wasm'], ['cpu', 'cuda', 'mpi'], ['blas'], ['core']]

/** `[from folder, to folder, file]` of each import among the files under `folder`. */
function arrows(folder: string, pattern: RegExp, extensions: RegExp): [string, string, string][] {
  const roomOf = (path: string) => path.split(/[\\/]/)[0].replace(/\.ts$/, '')
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => extensions.test(path))
    .flatMap((path) => {
      const text = readFileSync(join(root, folder, path), 'utf8')
      return [...text.matchAll(pattern)].map(([, target]): [string, string, string] => {
        const relative = normalize(join(dirname(path), target))
        return [roomOf(path), roomOf(relative.replace(/\.js$/, '.ts')), path]
      })
    })
}

/** Imports of a higher layer, or of another folder in the same layer. */
function wrong(floors: readonly (readonly string[])[], found: readonly [string, string, string][]): string[] {
  const floorOf = (room: string) => {
    const floor = floors.findIndex((rooms) => rooms.includes(room))
    if (floor < 0) throw new Error(`${room} is on no floor`)
    return floor
  }
  return found
    .filter(([from, to]) => from !== to && floorOf(to) <= floorOf(from))
    .map(([, to, file]) => `${file} imports ${to}`)
}

test('imports of lib run one way', () => {
  const found = arrows('lib', IMPORT, /\.ts$/)
  expect(found.length).toBeGreaterThan(100)
  expect(wrong(LIBRARY, found)).toEqual([])
})

/** A circle of files, each of which imports the next; none where there is none. */
function circleOf(importsOf: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>()
  const follow = (path: readonly string[]): string[] => {
    const file = path.at(-1)!
    const start = path.indexOf(file)
    if (start < path.length - 1) return path.slice(start)
    if (done.has(file)) return []
    for (const next of importsOf.get(file) ?? []) {
      const found = follow([...path, next])
      if (found.length > 0) return found
    }
    done.add(file)
    return []
  }
  return [...importsOf.keys()].map((file) => follow([file])).find((circle) => circle.length > 0) ?? []
}

test('no files of lib import each other, and none is long', () => {
  const files = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' }).filter((path) =>
    path.endsWith('.ts'),
  )
  const imports = new Map(
    files.map((path) => {
      const text = readFileSync(join(root, 'lib', path), 'utf8')
      expect(text.split('\n').length, path).toBeLessThanOrEqual(301)
      const targets = [...text.matchAll(IMPORT)].map(([, to]) =>
        normalize(join(dirname(path), to)).replace(/\.js$/, '.ts'),
      )
      return [normalize(path), targets] as const
    }),
  )
  expect(circleOf(imports)).toEqual([])
  expect(circleOf(new Map([...imports, ['errors.ts', ['index.ts']]]))).toContain('errors.ts')
  const three = { a: ['b', 'd'], b: ['c'], c: ['b'], d: [] }
  expect(circleOf(new Map(Object.entries(three)))).toEqual(['b', 'c', 'b'])
})

/** Imports and re-exports of values, `import('…')`. */
const VALUE_IMPORT = /^(?:import|export) (?!type )(?:[\w\s{},*]* from )?'([^']+)'|\bimport\('([^']+)'\)/gm
/** A global of Node.js that is used as if it were always there. */
const NODE_GLOBAL = /(?<![\w.'`])(Buffer|process|require|__dirname|__filename)(?=[.([])/g

/** A file of lib without its comments. */
const codeOf = (file: string) =>
  readFileSync(join(root, 'lib', file), 'utf8').replaceAll(/\/\*.*?\*\/|(?<=^|\s)\/\/[^\n]*/gs, '')

/** The files that take the place of others in browsers. */
const twins = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.browser.ts'))
  .map(normalize)

/** The file of an import in a browser, or the name of a module. */
function browserFileOf(importer: string, target: string): string {
  if (!target.startsWith('.')) return target
  const file = normalize(join(dirname(importer), target)).replace(/\.js$/, '.ts')
  const twin = file.replace(/\.ts$/, '.browser.ts')
  return twins.includes(twin) ? twin : file
}

/** All files that an entry loads in a browser, each with what it imports. */
function browserImports(entry: string, found = new Map<string, string[]>()): Map<string, string[]> {
  if (found.has(entry)) return found
  const targets = [...codeOf(entry).matchAll(VALUE_IMPORT)].map(([, from, later]) =>
    browserFileOf(entry, from ?? later),
  )
  found.set(entry, targets)
  for (const target of targets) if (target.endsWith('.ts')) browserImports(target, found)
  return found
}

const ADAPTERS = ['tfjs', 'jax', 'onnxruntime'].map((name) => join('adapters', name, 'index.ts'))

test.each([
  'index.ts',
  join('data', 'index.ts'),
  join('metrics', 'index.ts'),
  join('webgpu', 'index.ts'),
  join('distributed', 'index.ts'),
  ...ADAPTERS,
])('in browsers %s needs nothing of Node.js', (entry) => {
  const imports = browserImports(entry)
  expect(imports.size).toBeGreaterThan(5)
  for (const [file, targets] of imports) {
    const modules = targets.filter((target) => !/\.(ts|wgsl)$|^@(tensorflow|jax-js)\//.test(target))
    const globals = [...codeOf(file).matchAll(NODE_GLOBAL)].map(([name]) => name)
    expect({ file, modules, globals }).toEqual({ file, modules: [], globals: [] })
  }
  expect(circleOf(imports)).toEqual([])
})

/** The values that a file exports. */
function exportsOf(file: string): string[] {
  const code = codeOf(file)
  const own = [...code.matchAll(/^export (?:async )?(?:function\*? |const |let |class )(\w+)/gm)].map(
    ([, name]) => name,
  )
  const lists = [...code.matchAll(/^export {([^}]*)}/gm)].flatMap(([, list]) => list.split(','))
  const listed = lists.map((item) => item.trim()).filter((item) => item !== '' && !item.startsWith('type '))
  return [...new Set([...own, ...listed.map((item) => item.replace(/^.* as /, ''))])].sort()
}

test.each(twins)('%s exports what the file that it replaces exports', (twin) => {
  expect(exportsOf(twin).length).toBeGreaterThan(0)
  expect(exportsOf(twin)).toEqual(exportsOf(twin.replace('.browser.ts', '.ts')))
})

test('includes of native run one way', () => {
  const found = arrows('native', /#include "((?:\.\.\/)[^"]+)"/g, /\.(cc|cu|h|inl)$/)
  expect(found.length).toBeGreaterThan(15)
  expect(wrong(NATIVE, found)).toEqual([])
})

test('a wrong import is found', () => {
  const lines = ["import type { Plan } from '../functions/x.js'", "export * from './y.js'", "await import('../z.js')"]
  expect(lines.flatMap((line) => [...line.matchAll(IMPORT)].map(([, path]) => path))).toEqual([
    '../functions/x.js',
    './y.js',
    '../z.js',
  ])
  const values = [
    "import type { A } from 'a'",
    "import {\n  b,\n} from 'b'",
    "export * from 'c'",
    "import('d')",
    "import 'e'",
  ]
  expect(values.flatMap((line) => [...line.matchAll(VALUE_IMPORT)].map(([, from, later]) => from ?? later))).toEqual([
    'b',
    'c',
    'd',
    'e',
  ])
  expect(wrong(LIBRARY, [['call', 'functions', 'call/run.ts']])).toEqual(['call/run.ts imports functions'])
  expect(wrong(NATIVE, [['cpu', 'cuda', 'cpu/rows.h']])).toEqual(['cpu/rows.h imports cuda'])
})
