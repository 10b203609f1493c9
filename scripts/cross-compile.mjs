#!/usr/bin/env node
/**
 * Compiles the addon for any platform with Zig as the C++ compiler. prebuildify calls this script in place of node-gyp
 * and names the target in environment variables; the result is build/Release of the working directory.
 */
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { OLDEST_LINUX, zig } from './zig.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const run = (/** @type {string[]} */ args) => promisify(execFile)(zig, args, { cwd: root, maxBuffer: 2 ** 26 })

const load = createRequire(import.meta.url)
const nodeApi = load('node-api-headers')
const { PREBUILD_PLATFORM: platform = '', PREBUILD_ARCH: arch = '', PREBUILD_LIBC: libc } = process.env

const isArm = arch === 'arm64'
const cpu = isArm ? 'aarch64' : 'x86_64'
/** @type {Record<string, string>} */
const systems = {
  linux: libc === 'musl' ? 'linux-musl' : OLDEST_LINUX,
  darwin: 'macos.11.0',
  win32: 'windows-gnu',
}
const target = ['-target', `${cpu}-${systems[platform]}`]

const compile = [
  ...['-std=c++17', '-O3', '-ffp-contract=off', '-fvisibility=hidden', '-fvisibility-inlines-hidden', '-g0'],
  ...['-Wall', '-Wextra', '-Werror', `-ffile-prefix-map=${root}=`],
  ...['-isystem', nodeApi.include_dir, '-isystem', dirname(load.resolve('node-addon-api'))],
]
if (platform !== 'win32') compile.push('-fPIC')
// Zig disables every feature that it does not enable by name, including evex512, without which clang 18 to 21 has no
// AVX-512. evex512 alone enables no instruction: the sources choose the instructions.
if (arch === 'x64') compile.push('-mcpu=x86_64+evex512')

const output = join(process.cwd(), 'build/Release')
mkdirSync(output, { recursive: true })

const sources = readFileSync(join(root, 'native/sources.txt'), 'utf8').trim().split(/\s+/)
const objects = sources.map((source) => join(output, `${basename(source)}.o`))
const waiting = [...sources.entries()]
const compileNext = async () => {
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const [i, source] = next
    await run(['c++', ...target, ...compile, '-c', source, '-o', objects[i]])
  }
}

try {
  await Promise.all(Array.from({ length: availableParallelism() }, compileNext))
  // -w: Zig compiles its C++ library at the first link, with warnings about that library's own sources.
  const link = ['c++', ...target, '-w', '-shared', '-s', '-o', join(output, 'fused_preference_loss.node'), ...objects]
  if (platform === 'linux') link.push(`-Wl,--version-script=${join(root, 'native/addon/exports.map')}`)
  if (platform === 'darwin') link.push('-Wl,-undefined,dynamic_lookup,-install_name,@rpath/fused_preference_loss.node')
  if (platform === 'win32') {
    const library = join(output, 'node.lib')
    const machine = isArm ? 'arm64' : 'i386:x86-64'
    await run(['dlltool', '-m', machine, '-D', 'node.exe', '-d', nodeApi.def_paths.node_api_def, '-l', library])
    // Brepro: a hash instead of the time of the build.
    link.push(library, '-Wl,-Brepro')
  }
  await run(link)
} catch (error) {
  console.error(/** @type {{ stderr?: string }} */ (error).stderr || error)
  process.exitCode = 1
}
