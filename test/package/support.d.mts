export const root: string
export const scratch: string
export const manifest: {
  name: string
  version: string
  gypfile: boolean
  bin: Record<string, string>
  scripts: Record<string, string>
}
export const npm: string[]
export const ONLINE: Record<string, string>
export const OFFLINE: Record<string, string>
export function cleanUp(): void
export function run(command: string[], cwd: string, env?: Record<string, string>): string
export function pack(folder: string): { tarball: string; files: string[]; size: number }
export function stage(): string
export function project(name: string, contents?: object): string
export function runReadmeProgram(runtime: string[], folder: string, env?: Record<string, string>): string
export function installed(folder: string): string
export interface SmokeResult {
  backends: {
    cpu: { available: boolean; reason: string; path: string; instructionSets: string[] }
    wasm: { available: boolean }
  }
  warnings: string[]
}
export function runSmoke(
  command: string[],
  folder: string,
  options?: { env?: Record<string, string>; binary?: string },
): SmokeResult
