/**
 * A worker of the wasm backend in a browser: what worker.mjs is in Node.js. The first message says what it is to be.
 */
let exports

addEventListener('message', ({ data }) => {
  if (exports === undefined) begin(data)
  else run(data)
})

function begin({ module, memory, stack, helps }) {
  exports = new WebAssembly.Instance(module, { env: { memory } }).exports
  exports.__stack_pointer.value = stack
  if (helps) exports.help()
}

function run({ id, addresses }) {
  try {
    postMessage({ id, finished: exports.run(...addresses) !== 0 })
  } catch (error) {
    postMessage({ id, problem: String(error) })
  }
}
