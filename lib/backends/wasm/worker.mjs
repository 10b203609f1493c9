/**
 * A worker of the wasm backend: an instance of the module in the memory of its parent. It helps with whatever the pool
 * is given, or runs the tasks that its parent sends, as runner.ts has them. The first message says what it is to be.
 *
 * In Node.js it speaks through a port, and in a browser it is itself the port. Nothing is imported, as bundlers for
 * browsers look into this file.
 */
const port = globalThis.process?.getBuiltinModule?.('node:worker_threads').parentPort ?? globalThis
let memory
let exports

port.onmessage = ({ data }) => {
  if (exports === undefined) begin(data)
  else if (data.cell === undefined) port.postMessage(answerTo(data))
  else note(data)
}

function begin({ module, memory: shared, stack, helps }) {
  memory = shared
  exports = new WebAssembly.Instance(module, { env: { memory } }).exports
  exports.__stack_pointer.value = stack
  if (helps) exports.help()
}

function answerTo({ id, ...task }) {
  try {
    return { id, finished: run(task) }
  } catch (error) {
    return { id, problem: String(error) }
  }
}

// For a thread that hears no messages, an int32 says how the task stands: its number, until it is begun or taken back.
const [BEGUN, DONE, FAILED] = [-1, -2, -3]

function note({ cell, id, ...task }) {
  const cells = new Int32Array(bufferTo(4 * cell + 4))
  if (Atomics.compareExchange(cells, cell, id, BEGUN) !== id) return
  Atomics.store(cells, cell, 'finished' in answerTo(task) ? DONE : FAILED)
  Atomics.notify(cells, cell)
}

function run({ addresses, before, after }) {
  for (const { buffer, stretches } of before) {
    for (let i = 0; i < stretches.length; i += 3) {
      const [from, to, count] = stretches.slice(i, i + 3)
      new Uint8Array(bufferTo(to + count), to).set(new Uint8Array(buffer, from, count))
    }
  }
  const finished = exports.run(...addresses) !== 0
  for (const { buffer, stretches } of finished ? after : []) {
    for (let i = 0; i < stretches.length; i += 3) {
      const [to, from, count] = stretches.slice(i, i + 3)
      new Uint8Array(buffer, to).set(new Uint8Array(bufferTo(from + count), from, count))
    }
  }
  return finished
}

// Another thread may have grown the memory, which this thread's buffer need not show yet.
function bufferTo(end) {
  if (end > memory.buffer.byteLength) memory.grow(0)
  return memory.buffer
}
