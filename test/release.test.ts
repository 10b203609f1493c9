/**
 * The checks that keep an incomplete package from being published: scripts/shipped.mjs on a repository of small files,
 * and the script that npm runs before it packs.
 */
import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { linked } from '../scripts/links.mjs'
import {
  binaryOf,
  distIsCurrent,
  problemsOf,
  recordSources,
  releaseProblems,
  TARGETS,
  WASM_FILES,
  wasmIsCurrent,
} from '../scripts/shipped.mjs'

const repository = fileURLToPath(new URL('..', import.meta.url))
const CUDA = 'linux-x64/fused_preference_loss_cuda.so'
const manifest = {
  name: 'fused-preference-loss',
  version: '1.2.3',
  type: 'module',
  files: ['dist', 'prebuilds', 'native', 'CMakeLists.txt', 'LICENSE'],
  exports: { '.': { import: './dist/index.mjs', require: './dist/index.cjs' }, './prebuilds/*': './prebuilds/*' },
  bin: { 'fused-preference-loss': './dist/cli.mjs' },
  scripts: { prepack: 'node scripts/check-package.mjs' },
}

let root: string
const at = (path: string) => join(root, path)
const problems = (without: string[] = []) => problemsOf(root, { root, without })

function write(path: string, text: string) {
  mkdirSync(dirname(at(path)), { recursive: true })
  writeFileSync(at(path), text)
}

function writeManifest(changes: object = {}) {
  write('package.json', JSON.stringify({ ...manifest, ...changes }))
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'fused-preference-loss-release-'))
  writeManifest()
  for (const path of [
    'native/addon/addon.cc',
    'native/cuda/api.h',
    'native/cuda/plan.cu',
    'native/cuda/exports.map',
    'native/cuda/host/block.cc',
    'native/wasm/module.cc',
  ]) {
    write(path, `// ${path}`)
  }
  for (const path of [
    'LICENSE',
    'CHANGELOG.md',
    'CMakeLists.txt',
    'lib/index.ts',
    'scripts/cross-compile.mjs',
    'scripts/build-wasm.mjs',
    'scripts/link-cuda.mjs',
    'scripts/zig.mjs',
    'scripts/toolchain/newer-glibc.c',
  ])
    write(path, path)
  for (const name of ['index.mjs', 'index.cjs', 'cli.mjs']) write(`dist/${name}`, name)
  const sizes: Record<string, number> = {}
  for (const file of [...TARGETS.map(binaryOf), CUDA]) {
    write(`prebuilds/${file}`, file)
    sizes[file] = statSync(at(`prebuilds/${file}`)).size
    if (file === CUDA) continue
    const module = /\.(glibc|musl)\.node$/.exec(file)?.[1] ?? 'addon'
    for (const ending of ['cjs', 'd.cts']) write(`prebuilds/${dirname(file)}/${module}.${ending}`, 'export {}')
  }
  for (const file of WASM_FILES) write(`prebuilds/${file}`, file)
  write('prebuilds/sizes.json', JSON.stringify(sizes))
  recordSources(at('prebuilds'), TARGETS.map(binaryOf), 'addon', root)
  recordSources(at('prebuilds'), [CUDA], 'cuda', root)
  recordSources(at('prebuilds'), WASM_FILES, 'wasm', root)
  recordSources(at('dist'), ['dist'], 'dist', root)
})
afterEach(() => rmSync(root, { recursive: true }))

describe('a package', () => {
  test('is complete', () => {
    expect(TARGETS).toHaveLength(8)
    expect(problems()).toEqual([])
  })

  test.each([
    ...TARGETS.map((target) => `prebuilds/${binaryOf(target)}`),
    `prebuilds/${CUDA}`,
    ...WASM_FILES.map((file) => `prebuilds/${file}`),
    'prebuilds/linux-arm64/musl.cjs',
    'prebuilds/win32-arm64/addon.d.cts',
    'dist/index.mjs',
    'dist/index.cjs',
    'dist/cli.mjs',
    'LICENSE',
  ])('without %s', (path) => {
    rmSync(at(path))
    expect(problems()).toEqual([`${path} is missing`])
    writeFileSync(at(path), '')
    expect(problems()).toContain(`${path} is missing`)
  })

  test('without prebuilds, without dist', () => {
    rmSync(at('prebuilds'), { recursive: true })
    expect(problems()).toHaveLength(TARGETS.length + WASM_FILES.length + 2)
    rmSync(at('dist'), { recursive: true })
    expect(problems()).toEqual(
      expect.arrayContaining(['prebuilds is missing', 'dist is missing', 'dist/index.mjs is missing']),
    )
  })

  test('a part that is left out is named', () => {
    for (const file of [CUDA, binaryOf('darwin-x64')]) rmSync(at(`prebuilds/${file}`))
    expect(problems(['cuda'])).toEqual([`prebuilds/${binaryOf('darwin-x64')} is missing`])
    expect(problems(['darwin-x64'])).toEqual([`prebuilds/${CUDA} is missing`])
    expect(problems(['cuda', 'darwin-x64'])).toEqual([])
  })

  const older = (...paths: string[]) => paths.map((path) => `${path} is older than its sources`)
  const addons = TARGETS.map((target) => `prebuilds/${binaryOf(target)}`)
  const modules = WASM_FILES.map((file) => `prebuilds/${file}`)
  test.each<[string, string[]]>([
    ['native/addon/addon.cc', older(...addons)],
    ['native/addon/new.h', older(...addons)],
    ['scripts/cross-compile.mjs', older(...addons)],
    ['native/cuda/api.h', older(...addons, `prebuilds/${CUDA}`)],
    ['native/cuda/plan.cu', older(`prebuilds/${CUDA}`)],
    ['native/cuda/exports.map', older(`prebuilds/${CUDA}`)],
    ['scripts/link-cuda.mjs', older(`prebuilds/${CUDA}`)],
    ['scripts/toolchain/newer-glibc.c', older(`prebuilds/${CUDA}`)],
    ['scripts/zig.mjs', older(...addons, `prebuilds/${CUDA}`)],
    ['CMakeLists.txt', older(`prebuilds/${CUDA}`)],
    ['native/cuda/host/block.cc', []],
    ['native/wasm/module.cc', older(...modules)],
    ['scripts/build-wasm.mjs', older(...modules)],
    ['lib/index.ts', older('dist')],
    ['README.md', []],
  ])('after a change of %s', (path, expected) => {
    if (path.endsWith('new.h')) write(path, '')
    else appendFileSync(at(path), '\n')
    expect(problems()).toEqual(expected)
    expect(distIsCurrent(root)).toBe(path !== 'lib/index.ts')
    expect(wasmIsCurrent(root)).toBe(!expected.includes(`${modules[0]} is older than its sources`))
  })

  test('after a change of package.json that dist depends on, and of one that it does not', () => {
    writeManifest({ version: '1.2.4' })
    expect(problems()).toEqual([])
    writeManifest({ dependencies: { uplot: '1' } })
    expect(problems()).toEqual(older('dist'))
  })

  test('one binary made anew, its neighbours of old', () => {
    appendFileSync(at('native/addon/addon.cc'), '\n')
    recordSources(at('prebuilds'), [binaryOf('darwin-arm64')], 'addon', root)
    expect(problems()).toEqual(older(...addons).filter((line) => !line.includes('darwin-arm64')))
  })

  test('a binary of another size than the list that the loader goes by', () => {
    appendFileSync(at(`prebuilds/${CUDA}`), '\n')
    expect(problems()).toEqual([`prebuilds/sizes.json does not list the size of prebuilds/${CUDA}`])
    rmSync(at('prebuilds/sizes.json'))
    expect(problems()).toHaveLength(TARGETS.length + 1)
  })

  test('unpacked, of another repository', () => {
    const folder = mkdtempSync(join(tmpdir(), 'fused-preference-loss-release-'))
    try {
      for (const path of ['package.json', ...manifest.files]) {
        cpSync(at(path), join(folder, path), { recursive: true })
      }
      expect(problemsOf(folder, { root })).toEqual([])
      appendFileSync(join(folder, 'native/cuda/host/block.cc'), '\n')
      appendFileSync(join(folder, 'package.json'), '\n')
      expect(problemsOf(folder, { root })).toEqual([
        'native/cuda/host/block.cc differs from the repository',
        'package.json differs from the repository',
      ])
      appendFileSync(at('lib/index.ts'), '\n')
      expect(problemsOf(folder, { root })).toContain('dist is older than its sources')
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

describe('npm pack', () => {
  const pack = () => {
    const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
    const { status, stdout, stderr } = spawnSync(npm, ['pack', '--json'], {
      cwd: root,
      encoding: 'utf8',
      shell: process.platform === 'win32',
    })
    return { status, stdout, stderr }
  }
  const scripts = ['check-package.mjs', 'shipped.mjs', 'links.mjs']
  beforeEach(() => {
    for (const name of scripts) cpSync(join(repository, 'scripts', name), at(`scripts/${name}`))
  })

  test('packs what is complete, and the tarball passes', () => {
    expect(pack().status).toBe(0)
    const tarball = at('fused-preference-loss-1.2.3.tgz')
    const check = (...args: string[]) =>
      spawnSync(process.execPath, [at('scripts/check-package.mjs'), tarball, ...args], { encoding: 'utf8' })
    expect(check()).toMatchObject({ status: 0, stdout: `check-package: ${tarball} is complete\n` })
    appendFileSync(at('lib/index.ts'), '\n')
    expect(check()).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('\n  dist is older than its sources\n'),
    })
    expect(check('--release').stderr).toContain('package.json: repository.url is')
  })

  test('refuses what is not', () => {
    rmSync(at(`prebuilds/${CUDA}`))
    const { status, stderr } = pack()
    expect(stderr).toContain(`prebuilds/${CUDA} is missing`)
    expect(status).not.toBe(0)
    expect(() => statSync(at('fused-preference-loss-1.2.3.tgz'))).toThrow('ENOENT')
    const check = (...args: string[]) =>
      spawnSync(process.execPath, [at('scripts/check-package.mjs'), ...args], { encoding: 'utf8' })
    expect(check('--without', 'cuda')).toMatchObject({
      status: 0,
      stdout: 'check-package: left out cuda\ncheck-package: the package is complete\n',
    })
    expect(check('--without', 'coda')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("'coda' is not one of"),
    })
  })
})

describe('a release', () => {
  const page = 'https://github.com/somebody/fused-preference-loss'
  const named = {
    repository: { type: 'git', url: `git+${page}.git` },
    homepage: `${page}#readme`,
    bugs: { url: `${page}/issues` },
  }
  const DATED = '# Changelog\n\n## 1.2.3 (2027-01-31)\n'
  const release = (
    changes: object,
    changelog = DATED,
    from?: string,
    readme = `[docs]: ${page}/blob/main/docs/api.md\n`,
  ) => {
    writeManifest({ ...named, ...changes })
    write('CHANGELOG.md', changelog)
    write('README.md', readme)
    return releaseProblems({ root, repository: from })
  }

  test('with all that it needs', () => {
    expect(release({})).toEqual([])
    expect(release({}, DATED, 'somebody/fused-preference-loss')).toEqual([])
  })

  test.each<[string, object, string, string | undefined]>([
    ['repository.url', { repository: undefined }, DATED, undefined],
    ['repository.url', { repository: { url: `${page}.git` } }, DATED, undefined],
    [
      'OWNER stands',
      { repository: { url: 'git+https://github.com/OWNER/fused-preference-loss.git' } },
      DATED,
      undefined,
    ],
    ['this is else/where', {}, DATED, 'else/where'],
    ['homepage', { homepage: undefined }, DATED, undefined],
    ['bugs.url', { bugs: { url: 'https://github.com/else/where/issues' } }, DATED, undefined],
    ['## 1.2.3 (<date>)', {}, '## 1.2.3 (unreleased)\n## 1.2.2 (2026-01-31)\n', undefined],
    ['## 1.2.3 (<date>)', {}, '## 1.2.30 (2027-01-31)\n', undefined],
    ['## 1.2.3 (<date>)', {}, '## 1x2.3 (2027-01-31)\n', undefined],
  ])('with something wrong about %s', (what, changes, changelog, from) => {
    expect(release(changes, changelog, from)).toContainEqual(expect.stringContaining(what))
  })

  test('whose README links elsewhere', () => {
    const readme = '[docs]: https://github.com/OWNER/fused-preference-loss/blob/main/docs/api.md\n'
    expect(release({}, DATED, undefined, readme)).toEqual([expect.stringContaining('README.md links to another')])
    expect(release({}, DATED, undefined, linked(readme, page))).toEqual([])
  })

  test('this repository names its owner in package.json and README.md alone, and alike', () => {
    const { repository: source, homepage, bugs } = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8'))
    const [, owner, name] = /github\.com\/([^/]+)\/(.*)\.git$/.exec(source.url)!
    expect([homepage, bugs.url]).toEqual([
      `https://github.com/${owner}/${name}#readme`,
      `https://github.com/${owner}/${name}/issues`,
    ])
    const folders = ['docs', 'lib', 'scripts', '.github'].flatMap((folder) =>
      readdirSync(join(repository, folder), { recursive: true, encoding: 'utf8' }).map((path) => join(folder, path)),
    )
    const files = [...folders, ...readdirSync(repository)].filter((path) => /\.(md|m?ts|mjs|ya?ml|json)$/.test(path))
    const address = new RegExp(`github\\.com/[^/]+/${name}`)
    const naming = files.filter(
      (path) => !/node_modules/.test(path) && address.test(readFileSync(join(repository, path), 'utf8')),
    )
    expect(naming.sort()).toEqual(['README.md', 'package.json'])
    for (const path of naming) {
      const text = readFileSync(join(repository, path), 'utf8')
      expect(linked(text, `https://github.com/${owner}/${name}`)).toBe(text)
    }
  })
})
