/**
 * Libraries of BLAS for tests: those of this machine, and small ones that are compiled here. No assertions here.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Target } from './support.js'

/** A library of this machine. */
export interface Blas {
  name: string
  path: string
}

const toolchain = fileURLToPath(new URL('../scripts/toolchain/blas', import.meta.url))
/** The file of that name somewhere under the folder where scripts/install-blas.mjs installs packages. */
const installed = (name: string) => {
  const files = existsSync(toolchain) ? readdirSync(toolchain, { recursive: true, encoding: 'utf8' }) : []
  const path = files.find((at) => at.endsWith(`/${name}`))
  return path === undefined ? '' : join(toolchain, path)
}
const KNOWN: readonly Blas[] = [
  { name: "Debian's OpenBLAS", path: '/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0' },
  { name: 'OpenBLAS with integers of 32 bits', path: installed('libscipy_openblas.so') },
  { name: 'OpenBLAS with integers of 64 bits', path: installed('libscipy_openblas64_.so') },
  { name: 'MKL', path: installed('libmkl_rt.so.3') },
]

/** Those that are installed. */
export const BLASES: readonly Blas[] = KNOWN.filter(({ path }) => existsSync(path))
for (const { name } of KNOWN.filter((blas) => !BLASES.includes(blas))) {
  const how = name.startsWith('Debian') ? 'apt install libopenblas0-pthread' : 'node scripts/install-blas.mjs'
  console.log(`${name} left out, as it is not installed: ${how}`)
}

const folder = mkdtempSync(join(tmpdir(), 'fpl-blas-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
const source = fileURLToPath(new URL('native/blas_stand_in.c', import.meta.url))
let count = 0

/** The path of a stand-in, compiled with these definitions. */
export function standIn(...definitions: string[]): string {
  const path = join(folder, `libstandin${count++}.so`)
  const all = definitions.map((definition) => `-D${definition}`)
  execFileSync('cc', ['-shared', '-fPIC', '-O2', ...all, source, '-o', path], { stdio: 'pipe' })
  return path
}

/** Calls with the products of that library. */
export function products({ name, path }: Blas): Target {
  return {
    name: `cpu, products of ${name}`,
    run: {
      backend: 'cpu',
      // The library is named for the process: by the time that a call has read its options, it is this one.
      get products() {
        process.env.FUSED_PREFERENCE_LOSS_BLAS = path
        return 'blas'
      },
    } as Target['run'],
  }
}
