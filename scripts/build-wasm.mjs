/**
 * Makes the WebAssembly modules that the package ships, prebuilds/wasm/, from native/core, native/cpu and native/wasm:
 * one for one thread, and one for memory that threads share. The same sources give the same bytes.
 */
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { recordSources, WASM_FILES } from './shipped.mjs'
import { installZig, zig } from './zig.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const run = (/** @type {string[]} */ args) => promisify(execFile)(zig, args, { cwd: root, maxBuffer: 2 ** 26 })

installZig('build:wasm')
console.log('build:wasm: compiling')

/** A module may have no more bytes than this: pages download it. */
const LIMIT = 200_000

/** The loops over logits and matrices are compiled for speed, all else for size. */
const FAST = /isa_wasm/
const FEATURES = 'generic+simd128+bulk_memory+nontrapping_fptoint+sign_ext+mutable_globals'
const compile = [
  ...['-std=c++17', '-ffp-contract=off', '-fno-exceptions', '-fno-rtti', '-fno-threadsafe-statics', '-g0'],
  ...[
    '-fvisibility=hidden',
    '-fvisibility-inlines-hidden',
    '-Wall',
    '-Wextra',
    '-Werror',
    `-ffile-prefix-map=${root}=`,
  ],
]
// All the memory that addresses of 32 bits reach, but for the last page: lld takes no more.
const link = ['-mexec-model=reactor', '-s', '-w', '-Wl,--import-memory,--max-memory=4294901760,-z,stack-size=1048576']
link.push('-Wl,--export=__stack_pointer')

const sources = readFileSync(join(root, 'native/sources.txt'), 'utf8').trim().split(/\s+/)
const used = sources.filter((source) => !/^native\/(?:addon|blas|mpi)\/|\/limits\.cc$/.test(source))
used.push('native/wasm/module.cc')

/** @type {(() => Promise<void>)[]} */
const steps = []
const [alone, threads] = WASM_FILES
const variants = [
  { file: alone, target: ['-target', 'wasm32-wasi', `-mcpu=${FEATURES}`], more: [] },
  { file: threads, target: ['-target', 'wasm32-wasi', `-mcpu=${FEATURES}+atomics`], more: ['-Wl,--shared-memory'] },
].map((variant) => ({ ...variant, objects: join(root, 'build', basename(variant.file, '.wasm')) }))
for (const { target, objects } of variants) {
  mkdirSync(objects, { recursive: true })
  for (const source of used) {
    const level = FAST.test(source) ? '-O3' : '-Os'
    const object = join(objects, `${basename(source)}.o`)
    steps.push(async () => void (await run(['c++', ...target, ...compile, level, '-c', source, '-o', object])))
  }
}
const work = async () => {
  for (let step = steps.shift(); step; step = steps.shift()) await step()
}

try {
  await Promise.all(Array.from({ length: availableParallelism() }, work))
  mkdirSync(join(root, 'prebuilds/wasm'), { recursive: true })
  for (const { file, target, more, objects } of variants) {
    const files = used.map((source) => join(objects, `${basename(source)}.o`))
    await run(['c++', ...target, '-O3', ...link, ...more, '-o', join(root, 'prebuilds', file), ...files])
  }
  for (const file of WASM_FILES) {
    const bytes = readFileSync(join(root, 'prebuilds', file))
    if (bytes.length > LIMIT) throw new Error(`${file} has ${bytes.length} bytes, more than ${LIMIT}`)
    // What the C library would ask of a system must not have crept in.
    const { Module } = /** @type {any} */ (globalThis).WebAssembly
    const imports = Module.imports(new Module(bytes))
    if (imports.length !== 1) throw new Error(`${file} imports more than its memory: ${JSON.stringify(imports)}`)
  }
  recordSources(join(root, 'prebuilds'), [...WASM_FILES], 'wasm')
} catch (error) {
  console.error(/** @type {{ stderr?: string }} */ (error).stderr || error)
  process.exitCode = 1
}
