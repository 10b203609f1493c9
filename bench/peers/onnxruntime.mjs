/**
 * onnxruntime, for Node.js and in WebAssembly: LogSoftmax and GatherElements, forward only (neither has gradients). Of the
 * formulations that its operators allow, this is the fastest. With an output layer: its MatMul, and our log-probs from the
 * logits.
 */
import { sequenceLogProbsSync } from 'fused-preference-loss'
import { Absent } from '../absent.mjs'
import { urlOf, versionOf } from '../packages.mjs'
import { headModel, logProbModel } from './log-prob-models.mjs'

/**
 * @param {(threads: number) => Promise<any>} load gives the library
 * @param {import('fused-preference-loss').RunOptions} run what runs our log-probs
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'quick'>} words
 * @returns {import('./index.mjs').Peer}
 */
export function onnxruntimePeer(load, run, words) {
  /** @type {any} */
  let session
  /** @type {any[]} */
  let feeds
  /** @type {Int32Array} */
  let targets
  let time = 0
  /** @type {number[]} */
  let logProbs
  /** @type {((copy: number) => Promise<void>) | undefined} */
  let forward

  return {
    ...words,
    linear: true,

    supports({ stage, dtype }) {
      if (stage !== 'forward' && stage !== 'linear-forward') return 'has no gradients in JavaScript'
      return dtype !== 'bfloat16' || 'takes no bfloat16 from JavaScript'
    },

    async prepare({ shape: [batch, length, vocab], dtype, width, shift }, inputs, { threads }) {
      const { InferenceSession, Tensor } = await load(threads)
      this.version = await versionOf(words.title)
      const model = width ? headModel() : logProbModel(/** @type {any} */ (dtype))
      session = await InferenceSession.create(model, { intraOpNumThreads: threads })
      if (width) {
        // The layout that its MatMul takes: [width, vocab].
        const given = /** @type {Float32Array} */ (inputs.weight)
        const across = Float32Array.from(
          { length: given.length },
          (_, i) => given[(i % vocab) * width + Math.floor(i / vocab)],
        )
        const weight = new Tensor('float32', across, [width, vocab])
        const states = inputs.logits.map(
          (data) => new Tensor('float32', /** @type {any} */ (data), [batch * length, width]),
        )
        forward = async (copy) => {
          const { logits } = await session.run({ hidden: states[copy], weight })
          const tensor = { data: /** @type {Float32Array} */ (logits.data), shape: [batch, length, vocab] }
          logProbs = [...sequenceLogProbsSync(tensor, inputs.labels, { ...run, shift, threads }).logProbs]
        }
        return
      }
      forward = undefined
      targets = inputs.targets
      time = length
      const labels = new Tensor(
        'int64',
        BigInt64Array.from(targets, (target) => BigInt(Math.max(0, target))),
        [batch * time, 1],
      )
      feeds = inputs.logits.map((data) => ({
        logits: new Tensor(/** @type {any} */ (dtype), /** @type {any} */ (data), [batch * time, vocab]),
        labels,
      }))
      logProbs = new Array(batch)
    },

    async run(copy) {
      if (forward) return forward(copy)
      const { picked } = await session.run(feeds[copy])
      logProbs.fill(0)
      for (let row = 0; row < targets.length; row++) {
        if (targets[row] >= 0) logProbs[Math.floor(row / time)] += picked.data[row]
      }
    },

    result: () => ({ logProbs }),
  }
}

const WEB = 'onnxruntime-web'

export const onnxruntimeWeb = onnxruntimePeer(
  async (threads) => {
    if ((await versionOf(WEB)) === undefined) throw new Absent(`no ${WEB}; npm run bench:peers installs it`)
    const ort = await import(urlOf(WEB, `dist/${typeof process === 'object' ? 'ort.node' : 'ort.wasm.bundle'}.min.mjs`))
    ort.env.wasm.numThreads = threads
    return ort
  },
  { backend: 'wasm' },
  { name: 'onnxruntime-web', title: WEB, quick: true },
)
