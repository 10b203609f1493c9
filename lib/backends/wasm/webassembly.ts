/** What is used of the engine's WebAssembly: its types come with those of browsers, which this package goes without. */

export interface Module {
  readonly [Symbol.toStringTag]: string
}

export interface Memory {
  readonly buffer: ArrayBuffer | SharedArrayBuffer
  grow(pages: number): number
}

interface Api {
  validate(bytes: Uint8Array): boolean
  compile(bytes: ArrayBuffer | ArrayBufferView): Promise<Module>
  /** Absent in some runtimes. */
  compileStreaming(response: unknown): Promise<Module>
  readonly Module: new (bytes: Uint8Array) => Module
  readonly Instance: new (module: Module, imports: { env: { memory: Memory } }) => { readonly exports: unknown }
  readonly Memory: new (size: { initial: number; maximum: number; shared: boolean }) => Memory
  readonly RuntimeError: new () => Error
}

/** Undefined where the engine has none. */
export const WebAssembly = (globalThis as { WebAssembly?: Api }).WebAssembly as Api
