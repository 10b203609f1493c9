/** A cluster worker that calls, and leaves while another call runs. */
import { fusedPreferenceLoss } from '../../dist/index.mjs'

const vocab = 5000
const call = (/** @type {number} */ rows) =>
  fusedPreferenceLoss(
    { data: new Float32Array(vocab), shape: [2, rows, vocab], strides: [0, 0, 1] },
    new Int32Array(2 * rows),
    { shift: false, lossType: 'cpo', gradient: true },
  )
await call(50)
call(200)
process.exit(0)
