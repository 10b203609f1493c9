/**
 * The exponentials and logarithms of native code: the addon uses its own ones, and their tables equal the output of
 * their script. Their values are tested in test/native/exact_math.cc.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { getBackends } from '../lib/index.js'

// A compiler is there, so nm is; on macOS names have an underscore.
test.runIf(process.platform !== 'win32')('the addon takes no exponential or logarithm from the C library', () => {
  const dynamic = process.platform === 'darwin' ? [] : ['--dynamic']
  const { stdout } = spawnSync('nm', [...dynamic, '-u', getBackends().cpu.path as string], { encoding: 'utf8' })
  const taken = [...stdout.matchAll(/^ *(?:[Uw] )?_?(\w+)(?:@\S+)?$/gm)].map(([, name]) => name)
  expect(taken).toContain('napi_create_function')
  expect(taken.filter((name) => /^(exp|exp2|expm1|log|log2|log10|log1p|pow|tanh)f?l?$/.test(name))).toEqual([])
})

test('the tables are what the script makes', () => {
  const script = fileURLToPath(new URL('../scripts/exact-math-tables.mjs', import.meta.url))
  const { status, stderr } = spawnSync(process.execPath, [script, '--check'], { encoding: 'utf8' })
  expect([status, stderr]).toEqual([0, ''])
})
