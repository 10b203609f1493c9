/**
 * The package from its tarball in runtimes beside Node.js: all backends in Bun and Deno, which have its modules, and an
 * edge runtime, which has not.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { copyFileSync, cpSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { group, row } from './rows.mjs'
import { installed, run, runReadmeProgram, scratch } from './support.mjs'
import { app, esbuild, golden, tool, versionOf, wanted, web } from './web.mjs'

export async function runtimes() {
  group('Runtimes beside Node.js')
  const withoutBinary = join(scratch, 'without-binary')
  cpSync(app, withoutBinary, { recursive: true })
  for (const file of readdirSync(join(installed(withoutBinary), 'prebuilds'))) {
    if (file !== 'wasm') rmSync(join(installed(withoutBinary), 'prebuilds', file), { recursive: true })
  }
  for (const [name, version, command] of /** @type {const} */ ([
    ['Bun', versionOf('@oven/bun-linux-x64-baseline'), [tool('@oven/bun-linux-x64-baseline/bin/bun')]],
    ['Deno', versionOf('@deno/linux-x64-glibc'), [tool('@deno/linux-x64-glibc/deno'), 'run', '--allow-all']],
  ])) {
    await row(`${name} ${version}`, () => {
      assert.doesNotMatch(runReadmeProgram([...command], app), /Warning/)
      const { backends, results, answers } = JSON.parse(run([...command, 'runtime.mjs'], app))
      assert(backends.cpu.available, backends.cpu.reason)
      assert.deepEqual(results, wanted)
      assert(answers > 0, 'no worker thread has answered')
      return `${Object.keys(results).join(', ')}; wasm on worker threads`
    })
    await row(`${name} ${version} without the binary`, () => {
      const warnings = runReadmeProgram([...command], withoutBinary).match(/Warning: .*/g)
      assert.equal(warnings?.length, 1)
      assert.match(warnings[0], /in WebAssembly, a few times slower/)
      return 'wasm, with one warning'
    })
  }
  await row(`workerd ${versionOf('@cloudflare/workerd-linux-64')}`, edge)
}

/** The worker of edge.mjs, bundled as wrangler does it. */
async function edge() {
  esbuild('edge.mjs', 'out-edge', [
    '--conditions=workerd,worker,browser',
    '--loader:.wasm=copy',
    '--asset-names=[name]',
  ])
  copyFileSync(join(web, 'edge.capnp'), join(app, 'out-edge/edge.capnp'))
  const workerd = tool('@cloudflare/workerd-linux-64/bin/workerd')
  // It writes the port that it has been given.
  const server = spawn(workerd, ['serve', 'edge.capnp', '--control-fd=1'], {
    cwd: join(app, 'out-edge'),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    for await (const line of createInterface(server.stdout)) {
      const { port } = JSON.parse(line)
      const response = await fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body: JSON.stringify(golden) })
      const text = await response.text()
      assert(response.ok, text)
      const { without, wasm, result } = JSON.parse(text)
      assert.match(without, /no URL by which fused-preference-loss.wasm could be found: pass it to loadWasm/)
      assert.equal(wasm.threads, 1)
      assert.deepEqual(result, wanted.wasm)
      return 'wasm on one thread, its module imported; js'
    }
    assert.fail('workerd has ended')
  } finally {
    server.kill()
  }
}
