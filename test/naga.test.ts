/**
 * Every shader in the eyes of naga, the compiler of wgpu, in a version of its own. Left out where there is no naga.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { allShaders } from './webgpu/shaders.js'

const hasNaga = spawnSync('naga', ['--version']).status === 0
if (!hasNaga) console.log('naga left out; cargo install naga-cli installs it')

test.skipIf(!hasNaga)('every shader is valid', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fused-preference-loss-shaders-'))
  const files = allShaders().map(({ name, code }, number) => {
    const file = join(folder, `${number} ${name.slice(0, 100)}.wgsl`)
    // It has what these lines ask for, and does not know them yet.
    writeFileSync(file, code.replace(/^(enable|requires) .*$/gm, ''))
    return file
  })
  expect(files.length).toBeGreaterThan(300)
  const { status, stderr } = spawnSync('naga', ['--bulk-validate', ...files], { encoding: 'utf8' })
  rmSync(folder, { recursive: true })
  expect([status, stderr]).toEqual([0, ''])
})
