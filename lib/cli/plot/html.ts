/**
 * The page of `plot`: page/page.html with the runs and all its assets inlined. In dist, page/ also holds uPlot, which
 * draws the curves.
 */
import { readFileSync } from 'node:fs'
import type { Run } from './runs.js'

const asset = (name: string): string => readFileSync(new URL(`./page/${name}`, import.meta.url), 'utf8').trim()

/** The page as text. */
export function pageOf(runs: readonly Run[]): string {
  const title = runs.map(({ name }) => name).join(', ')
  // "</script>" and "<!--" in a name would end or swallow the script around it.
  const data = JSON.stringify(runs).replaceAll('<', '\\u003c')
  const script = (name: string) => `<script>\n${name.startsWith('uPlot') ? licence() : ''}${asset(name)}\n</script>`
  // Replacer functions, because a text to insert may hold "$&" and other patterns.
  return asset('page.html')
    .replace('id="data">', () => `id="data">${data}`)
    .replace('</title>', () => `${escaped(title)}</title>`)
    .replace(/<link rel="stylesheet" href="([^"]+)" ?\/?>/g, (_, name) => `<style>\n${asset(name)}\n</style>`)
    .replace(/<script src="([^"]+)"><\/script>/g, (_, name) => script(name))
}

function licence(): string {
  return `/*! uPlot\n\n${asset('uPlot.LICENSE')}\n*/\n`
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
