/** Shaders: `import source from './x.wgsl'` is the text of the file, without its comments. For Rolldown, Rollup and Vite. */
export function wgslFiles(): {
  name: string
  load(id: string): { code: string; moduleType: 'js' } | undefined
}

/** The code of a shader without comments, empty lines and indentation. */
export function withoutComments(code: string): string
