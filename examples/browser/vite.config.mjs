// Builds the page and serves what it has built: `npm run demo:browser`.
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vite'
import { bookData } from './book-data.mjs'

const here = (/** @type {string} */ path) => fileURLToPath(new URL(path, import.meta.url))

/** Puts the tokens of the book beside the page. */
const book = {
  name: 'book',
  /** @this {import('rolldown').PluginContext} */
  generateBundle() {
    this.emitFile({ type: 'asset', fileName: 'book.json', source: JSON.stringify(bookData()) })
  },
}

export default defineConfig({
  root: here('.'),
  // The page may lie in any folder of a server.
  base: './',
  plugins: [book],
  // A third of the whole, which has all that the model needs; engines.mjs adds the gradients.
  resolve: { alias: [{ find: /^@tensorflow\/tfjs$/, replacement: '@tensorflow/tfjs-core' }] },
  build: { target: 'es2022' },
  worker: {
    format: 'es',
    // TensorFlow.js gives its threads the text of one of its functions, which the compressor would change: it knows that
    // a variable outside of the function is there, and the function asks whether it is.
    rolldownOptions: { output: { minify: { compress: false, mangle: true, codegen: true } } },
  },
  preview: {
    headers: {
      // Only a page that is isolated from other origins gets memory that threads can share.
      'Cross-Origin-Opener-Policy': 'same-origin',
      'Cross-Origin-Embedder-Policy': 'require-corp',
      // WebAssembly is compiled and nothing else; the threads of TensorFlow.js begin as blobs.
      'Content-Security-Policy': "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; img-src data:",
    },
  },
})
