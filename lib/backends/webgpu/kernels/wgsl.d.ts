/** The text of a shader; scripts/wgsl-files.mjs loads it. */
declare module '*.wgsl' {
  const source: string
  export default source
}
