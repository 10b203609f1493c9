export type Made = 'addon' | 'cuda' | 'wasm' | 'dist'
export const TARGETS: readonly string[]
export const PART_NAMES: readonly string[]
export const CUDA_LIBRARY: string
export const CUDA_PLATFORM: string
export const CUDA_FILE: string
export function binaryOf(target: string): string
export const WASM_FILES: readonly [string, string]
export function wasmIsCurrent(root?: string): boolean
export function distIsCurrent(root?: string): boolean
export function recordSources(folder: string, files: readonly string[], of: Made, root?: string): void
export function problemsOf(folder: string, options?: { root?: string; without?: readonly string[] }): string[]
export function releaseProblems(options?: { root?: string; repository?: string }): string[]
