/**
 * Small ONNX models for tests, documentation and benchmarks, as the bytes of their protocol buffers, in Node.js and in
 * browsers. The numbers of fields and types come from onnx.proto3.
 *
 * @typedef {'float32' | 'int64' | 'float16'} Type
 * @typedef {{ type: string, inputs: string[], output: string, attributes?: Record<string, number> }} Node
 * @typedef {{ shape: number[], data: Float32Array }} Weight
 */

/** @type {Record<Type, number>} */
export const TYPES = { float32: 1, int64: 7, float16: 10 }

/**
 * @param {object} graph
 * @param {Record<string, Type>} graph.inputs
 * @param {Record<string, Type>} graph.outputs
 * @param {Node[]} graph.nodes in the order they run
 * @param {Record<string, Weight>} [graph.weights]
 * @returns {Uint8Array} the model, for `InferenceSession.create`
 */
export function onnxModel({ inputs, outputs, nodes, weights = {} }) {
  const graph = [
    ...nodes.map(node),
    field(2, 'graph'),
    ...Object.entries(weights).map(([name, weight]) => initializer(name, weight)),
    ...Object.entries(inputs).map(([name, type]) => value(11, name, type)),
    ...Object.entries(outputs).map(([name, type]) => value(12, name, type)),
  ]
  const irVersion = field(1, 8)
  const operatorSet = field(8, [field(1, ''), field(2, 13)])
  return joined([irVersion, field(7, graph), operatorSet])
}

function node(/** @type {Node} */ { type, inputs, output, attributes = {} }) {
  const integer = 2
  return field(1, [
    ...inputs.map((input) => field(1, input)),
    field(2, output),
    field(4, type),
    ...Object.entries(attributes).map(([name, number]) =>
      field(5, [field(1, name), field(3, number), field(20, integer)]),
    ),
  ])
}

function initializer(/** @type {string} */ name, /** @type {Weight} */ { shape, data }) {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  return field(5, [...shape.map((size) => field(1, size)), field(2, TYPES.float32), field(8, name), field(9, [bytes])])
}

function value(/** @type {number} */ id, /** @type {string} */ name, /** @type {Type} */ type) {
  return field(id, [field(1, name), field(2, [field(1, [field(1, TYPES[type])])])])
}

/** A field: a number, or bytes with their length (text, or another message's fields). */
function field(/** @type {number} */ id, /** @type {number | string | Uint8Array[]} */ content) {
  if (typeof content === 'number') return Uint8Array.from([...varint(id << 3), ...varint(content)])
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : joined(content)
  return joined([Uint8Array.from([...varint((id << 3) | 2), ...varint(bytes.length)]), bytes])
}

function joined(/** @type {Uint8Array[]} */ parts) {
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/** @returns {number[]} */
function varint(/** @type {number} */ number) {
  return number < 128 ? [number] : [(number & 127) | 128, ...varint(number >>> 7)]
}
