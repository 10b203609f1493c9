/**
 * A worker of the wasm backend: an instance of the module in the memory of its parent. It helps with whatever the pool
 * is given, or runs the tasks that its parent sends, as runner.ts has them.
 */
import { parentPort, workerData } from 'node:worker_threads'

const { module, memory, stack, helps } = workerData
const { exports } = new WebAssembly.Instance(module, { env: { memory } })
exports.__stack_pointer.value = stack

if (helps) exports.help()

parentPort.on('message', (task) => {
  if (task.cell === undefined) parentPort.postMessage(answerTo(task))
  else note(task)
})

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
