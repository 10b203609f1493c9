/** What a host with a GPU gets of this repository, and what it needs besides. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

export const CUDA_LIBRARY = 'build/Release/fused_preference_loss_cuda.so'

/** Files and folders. */
export const PARTS = [
  'package.json',
  'tsconfig.json',
  'vitest.config.ts',
  'lib',
  'dist',
  'test',
  'bench',
  'native', // for variants
  'scripts/gpu',
  'scripts/onnx-model.mjs', // imported by bench/peers
  'scripts/wgsl-files.mjs', // and by vitest.config.ts
  'build/Release/fused_preference_loss.node',
  CUDA_LIBRARY,
]

/** The compiler's run-time libraries that a program is linked with. */
export function librariesOf(/** @type {string} */ program) {
  const said = execFileSync('ldd', [program], { encoding: 'utf8' })
  return [...said.matchAll(/=> (\/\S*\/(?:libstdc\+\+|libgcc_s|libatomic)\.so\S*)/g)].map(([, path]) => path)
}

/** The oldest version of glibc that has all that these programs and libraries need of it. */
export function oldestGlibc(/** @type {readonly string[]} */ paths) {
  const minors = paths.flatMap((path) => {
    const text = readFileSync(path, 'latin1')
    return [...text.matchAll(/\0GLIBC_2\.(\d+)(?=[.\0])/g)].map(([, minor]) => Number(minor))
  })
  return `2.${Math.max(...minors)}`
}
