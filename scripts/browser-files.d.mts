/** Files for browsers: `x.browser.ts` takes the place of `x.ts` beside it. For Rolldown, Rollup and Vite. */
export function browserFiles(): {
  name: string
  resolveId(source: string, importer: string | undefined): string | undefined
}
