/**
 * The list of cases: the computation, the shape, and the variants of ours. Peers and timing are decided elsewhere.
 *
 * @typedef {'forward' | 'step' | 'in-place' | 'tokens' | 'cross-entropy' | 'cross-entropy-step' | 'loss' |
 *   'linear-forward' | 'linear-step' | 'linear-tokens'} Stage
 *   forward: logits to sequence log-probs. step: logits to DPO loss to its gradient, written to an existing array.
 *   in-place: the same, over the logits. tokens: logits to the log-prob of each token, and the gradient of a policy-gradient
 *   loss that the caller makes of these, written to an existing array. cross-entropy: its mean and its gradient, over the
 *   logits. cross-entropy-step: the same, written to an existing array. loss: log-probs to DPO loss and its gradient, no
 *   logits at all. linear-…: from hidden states and the weight of the output layer, to the gradients of both, written to
 *   existing arrays.
 *
 * @typedef {object} Workload
 * @property {Stage} stage
 * @property {'float32' | 'float16' | 'bfloat16'} dtype
 * @property {[number, number, number]} shape batch, time, vocab; for 'loss' batch is twice the number of pairs
 * @property {number} [width] of the hidden states, for the linear stages
 * @property {boolean} shift logits at t predict the label at t + 1
 * @property {number} masked share of the labels that do not count
 * @property {boolean} leaveMasked ours leaves the gradient's masked rows untouched instead of writing zeros
 * @property {boolean} [entropies] for the stages of tokens: the loss has a part of each token's entropy
 * @property {number} [softcap] for the stage of tokens: the logits are capped, c · tanh(x / c)
 * @property {boolean} [shared] ours has its logits in memory that threads can share
 * @property {boolean} [byProducts] for linear-tokens: Σp², mean logit and argmax of each token are wanted as well
 *
 * @typedef {object} Settings of ours
 * @property {number} [threads]
 * @property {string} [instructionSet]
 * @property {{ gradientPrecision?: 'bfloat16', products?: 'amx' }} [head] options of an output layer
 *
 * @typedef {object} Variant ours with other settings
 * @property {string} label
 * @property {Settings} [settings]
 * @property {Partial<Workload>} [workload]
 *
 * @typedef {Workload & {
 *   name: string, title: string, group: string, quick: boolean, full: boolean,
 *   calls: number, warmUp: number, variants: Variant[], peers: 'all' | 'fast' | 'none' | readonly string[],
 * }} Case
 *   full: left out unless it is named or --full is given. calls: the number of calls timed together. warmUp: the number of calls before the first timed one, at least one per
 *   copy. peers: 'none' where only variants of ours are compared, 'fast' where slow peers would take minutes to repeat
 *   the finding of other cases, or the names of the peers to compare.
 */

/** β of every DPO loss here. */
export const BETA = 0.1

/** Factor of the entropies' mean in the losses that have it. */
export const ENTROPY_FACTOR = 0.01

/**
 * Other ways of an output layer in bfloat16. A machine that has not got one says so.
 * @type {(Variant & { settings: { head: NonNullable<Settings['head']> } })[]}
 */
export const HEAD_VARIANTS = [
  { label: 'one rounding', settings: { head: { gradientPrecision: 'bfloat16' } } },
  { label: 'AMX', settings: { head: { products: 'amx' } } },
  { label: 'AMX, one rounding', settings: { head: { products: 'amx', gradientPrecision: 'bfloat16' } } },
]

/** Those that change what a stage does: without a gradient it has no precision. */
const headVariants = (/** @type {Stage} */ stage) =>
  HEAD_VARIANTS.filter(({ settings: { head } }) => stage === 'linear-step' || !head.gradientPrecision)

const VOCABULARIES = [32000, 50257, 128256, 151936]
const SEQUENCES = 16
const TITLES = {
  forward: 'sequence log-probs from logits',
  step: 'DPO from logits: loss and gradient, into an existing array',
  'in-place': 'DPO from logits: loss and gradient, over the logits',
  tokens: "log-probs of tokens from logits, and the gradient of a caller's loss of them, into an existing array",
  'cross-entropy': 'cross-entropy from logits: loss and gradient, over the logits',
  'cross-entropy-step': 'cross-entropy from logits: loss and gradient, into an existing array',
  'linear-forward': 'sequence log-probs from hidden states and the weight of the output layer',
  'linear-step':
    'DPO from hidden states and the weight of the output layer: loss and both gradients, into existing arrays',
  'linear-tokens':
    "from hidden states and the weight of the output layer, and both gradients of a caller's loss of them",
}

/**
 * The numbers on which the list depends.
 * @typedef {object} Scale
 * @property {number} megabytes of logits in a float32 batch
 * @property {number} threads
 * @property {string} backend
 * @property {number} allThreads of the machine
 * @property {readonly string[]} instructionSets
 */

/**
 * @param {Scale} scale
 * @returns {Case[]}
 */
export function allCases({ megabytes, threads, backend, allThreads, instructionSets }) {
  const logits = megabytes * 2 ** 18

  /**
   * A batch of `sequences` with about the requested number of logits; every sequence has the same whole number of
   * tokens.
   */
  const shapeFor = (/** @type {number} */ vocab, sequences = SEQUENCES) =>
    /** @type {[number, number, number]} */ ([sequences, Math.max(2, Math.floor(logits / vocab / sequences)), vocab])

  /** @param {Partial<Case> & Pick<Case, 'name' | 'group' | 'stage' | 'shape' | 'title'>} given */
  const one = (given) => ({
    dtype: /** @type {const} */ ('float32'),
    // All rows count, unless masked, so that every byte of the logits must be read.
    shift: false,
    masked: 0,
    leaveMasked: false,
    quick: false,
    full: false,
    calls: 1,
    warmUp: 0,
    variants: [],
    peers: /** @type {const} */ ('fast'),
    ...given,
  })

  /** @type {Case[]} */
  const cases = []
  for (const stage of /** @type {const} */ (['forward', 'step', 'in-place'])) {
    for (const dtype of /** @type {const} */ (['float32', 'bfloat16', 'float16'])) {
      const all = dtype === 'float32' && stage !== 'in-place'
      if (dtype === 'float16' && stage === 'in-place') continue
      for (const vocab of all ? VOCABULARIES : [32000, 128256]) {
        cases.push(
          one({
            name: `${stage}-${vocab}-${dtype}`,
            group: stage,
            title: TITLES[stage],
            stage,
            dtype,
            shape: shapeFor(vocab),
            quick: all && (vocab === 32000 || (vocab === 128256 && backend === 'wasm')),
            peers: all && (vocab === 32000 || vocab === 128256) ? 'all' : 'fast',
          }),
        )
      }
    }
  }

  // DPO beside it: the gradient of a single token needs no loss of others, so that a row goes through memory once.
  for (const vocab of [32000, 128256]) {
    cases.push(
      one({
        name: `cross-entropy-${vocab}-float32`,
        group: 'cross-entropy',
        title: TITLES['cross-entropy'],
        stage: 'cross-entropy',
        shape: shapeFor(vocab),
        variants: [{ label: 'DPO', workload: { stage: 'in-place' } }],
        peers: vocab === 32000 ? 'all' : 'fast',
      }),
      one({
        name: `cross-entropy-step-${vocab}-float32`,
        group: 'cross-entropy',
        title: TITLES['cross-entropy-step'],
        stage: 'cross-entropy-step',
        shape: shapeFor(vocab),
        variants: [{ label: 'DPO', workload: { stage: 'step' } }],
        peers: 'none',
      }),
    )
  }

  for (const vocab of [32000, 128256]) {
    cases.push(
      one({
        name: `tokens-${vocab}-float32`,
        group: 'tokens',
        title: TITLES.tokens,
        stage: 'tokens',
        shape: shapeFor(vocab),
        variants: [
          { label: 'DPO', workload: { stage: 'step' } },
          { label: 'with entropies in the loss', workload: { entropies: true } },
          { label: 'with a soft-cap', workload: { softcap: 30 } },
        ],
      }),
    )
  }

  for (const stage of /** @type {const} */ (['forward', 'in-place'])) {
    for (const percent of [50, 90]) {
      cases.push(
        one({
          name: `masked-${percent}-${stage}`,
          group: 'masked',
          title: `${TITLES[stage]}; ${percent} % of the labels masked, at random, and left untouched`,
          stage,
          shape: shapeFor(32000),
          masked: percent / 100,
          leaveMasked: true,
          variants: [{ label: 'nothing masked', workload: { masked: 0 } }],
        }),
      )
    }
  }

  for (const stage of /** @type {const} */ (['forward', 'step'])) {
    cases.push(
      one({
        name: `few-rows-${stage}`,
        group: 'few-rows',
        title: `${TITLES[stage]}; few rows, large vocabulary`,
        stage,
        shape: [2, 2, 151936],
        calls: 8,
      }),
      one({
        name: `short-sequences-${stage}`,
        group: 'short-sequences',
        title: `${TITLES[stage]}; many short sequences`,
        stage,
        shape: shapeFor(32000, Math.max(2, 2 * Math.floor(logits / 32000 / 16))),
      }),
    )
  }

  const counts = [1, 2, 4, 8, 16, 32, 64, 128].filter((count) => count < threads)
  for (const stage of /** @type {const} */ (['forward', 'step'])) {
    for (const dtype of /** @type {const} */ (['float32', 'bfloat16'])) {
      cases.push(
        one({
          name: `threads-${stage}-${dtype}`,
          group: 'threads',
          title: `${TITLES[stage]}; number of threads`,
          stage,
          dtype,
          shape: shapeFor(32000),
          variants: counts.map((count) => ({
            label: `${count} thread${count === 1 ? '' : 's'}`,
            settings: { threads: count },
          })),
          peers: 'none',
        }),
        one({
          name: `instruction-sets-${stage}-${dtype}`,
          group: 'instruction-sets',
          title: `${TITLES[stage]}; instruction sets`,
          stage,
          dtype,
          shape: shapeFor(32000),
          variants: instructionSets.slice(1).map((set) => ({ label: set, settings: { instructionSet: set } })),
          peers: 'none',
        }),
      )
    }
  }

  /** @type {{ width: number, shape: [number, number, number], masked?: number }[]} */
  const heads = [
    { width: 512, shape: [8, 64, 32000] },
    { width: 1024, shape: [2, 128, 128256] },
    { width: 64, shape: [8, 32, 50257] },
    { width: 512, shape: [8, 64, 32000], masked: 0.5 },
  ]
  for (const stage of /** @type {const} */ (['linear-forward', 'linear-step'])) {
    for (const { width, shape, masked = 0 } of heads) {
      if (width > 512 && stage === 'linear-forward') continue
      const half = masked ? '-half-masked' : ''
      cases.push(
        one({
          name: `${stage}-${width}-${shape[2]}${half}`,
          group: 'linear',
          title: `${TITLES[stage]}; width ${width}${half && ', half of the labels masked'}`,
          stage,
          width,
          shape,
          masked,
          variants: masked
            ? [{ label: 'nothing masked', workload: { masked: 0 } }]
            : counts.map((count) => ({
                label: `${count} thread${count === 1 ? '' : 's'}`,
                settings: { threads: count },
              })),
          peers: masked ? 'none' : width > 512 ? 'fast' : 'all',
        }),
      )
    }
  }

  for (const stage of backend === 'cpu' ? /** @type {const} */ (['linear-forward', 'linear-step']) : []) {
    for (const dtype of /** @type {const} */ (['float32', 'bfloat16'])) {
      for (const width of [64, 512, 1024]) {
        for (const rows of [16, 64, 256, 512, 1024]) {
          const heads = ['torch-eager', 'torch-cross-entropy', 'torch-without-amx', 'trl', 'jax']
          /** @type {Variant[]} */
          const alone = threads > 1 ? [{ label: '1 thread', settings: { threads: 1 } }] : []
          cases.push(
            one({
              name: `${stage}-${rows}x${width}-32000-${dtype}`,
              group: `${stage}-${dtype}`,
              title: `${TITLES[stage]}; ${rows} rows, width ${width}`,
              stage,
              dtype,
              width,
              shape: [8, rows / 8, 32000],
              // Those of a micro-batch, and those of the other types' cases.
              full: dtype === 'float32' || ![64, 512].includes(rows) || width === 1024,
              variants: dtype === 'bfloat16' ? [...alone, ...headVariants(stage)] : alone,
              peers: dtype === 'float32' && stage === 'linear-step' ? ['blas-products', ...heads] : heads,
            }),
          )
        }
      }
    }
  }

  if (backend === 'cpu') {
    cases.push(
      one({
        name: 'linear-step-512-32000-blas',
        group: 'linear-blas',
        title: `${TITLES['linear-step']}; width 512, beside the products of a BLAS`,
        stage: 'linear-step',
        width: 512,
        shape: [8, 128, 32000],
        peers: ['ours-blas', 'blas-products'],
      }),
    )
  }

  // What only WebAssembly has to show.
  for (const stage of backend === 'wasm' ? /** @type {const} */ (['forward', 'step']) : []) {
    const counts = [...new Set([1, allThreads])]
    cases.push(
      one({
        name: `shared-memory-${stage}`,
        group: 'shared-memory',
        title: `${TITLES[stage]}; logits in memory that threads share, or in an ordinary array`,
        stage,
        shape: shapeFor(32000),
        shared: true,
        quick: true,
        variants: [true, false].flatMap((shared) =>
          counts
            .filter((count) => !shared || count !== threads)
            .map((count) => ({
              label: `${count} thread${count === 1 ? '' : 's'}, ${shared ? 'shared memory' : 'an ordinary array'}`,
              settings: { threads: count },
              workload: { shared },
            })),
        ),
        peers: 'none',
      }),
      // Copies cost little here: what is left is the arithmetic.
      one({
        name: `in-cache-${stage}`,
        group: 'in-cache',
        title: `${TITLES[stage]}; logits in the second-level cache`,
        stage,
        shape: [2, 1, 16000],
        calls: 100,
        quick: true,
        peers: 'none',
      }),
    )
  }
  if (backend === 'wasm') {
    cases.push(
      one({
        name: 'product-512-32000',
        group: 'product',
        title: `${TITLES['linear-forward']}, beside products alone; width 512`,
        stage: 'linear-forward',
        width: 512,
        shape: [8, 64, 32000],
        quick: true,
        peers: ['tfjs-wasm-product', 'tfjs-wasm-product-transposed'],
      }),
    )
  }

  /** @type {{ name: string, title: string, entropies: boolean, byProducts: boolean }[]} */
  const results = [
    { name: '', title: 'log-probs', entropies: false, byProducts: false },
    { name: '-entropies', title: 'log-probs and entropies', entropies: true, byProducts: false },
    { name: '-all', title: 'log-probs, entropies, Σp², mean logits and argmaxes', entropies: true, byProducts: true },
  ]
  for (const { name, title, entropies, byProducts } of results) {
    cases.push(
      one({
        name: `linear-tokens-512-32000${name}`,
        group: 'linear-tokens',
        title: `${title} of tokens ${TITLES['linear-tokens']}; width 512`,
        stage: 'linear-tokens',
        width: 512,
        shape: [8, 64, 32000],
        entropies,
        byProducts,
        peers: ['trl', ...(byProducts ? [] : ['torch-eager', 'jax'])],
      }),
    )
  }

  cases.push(
    one({
      name: 'in-a-trainer',
      group: 'in-a-trainer',
      title: "the loss part of a DPO step inside a trainer: from the model's logits to their gradient",
      stage: 'step',
      shape: shapeFor(50257),
      // A step of a long training: the code is compiled, and memory comes from earlier steps rather than from the
      // system.
      warmUp: 12,
      peers: ['tfjs-wasm', 'tfjs-wasm-custom', 'tfjs-wasm-ours', 'jax-js', 'jax-js-ours'],
    }),
    one({
      name: 'small-call-fused',
      group: 'small-call',
      title: 'latency of fusedPreferenceLossSync with gradient',
      stage: 'step',
      shape: [2, 4, 16],
      calls: 200,
      quick: backend !== 'wasm',
      peers: 'all',
    }),
    one({
      name: 'small-call-loss',
      group: 'small-call',
      title: 'latency of preferenceLossSync on 8 pairs',
      stage: 'loss',
      shape: [16, 1, 1],
      calls: 200,
      quick: backend !== 'wasm',
      peers: 'all',
    }),
  )
  return cases
}

/**
 * The requested cases, by name or by group.
 * @param {Case[]} cases
 * @param {{ names?: string[], dtypes?: string[], quick: boolean, full: boolean }} wanted
 */
export function selectCases(cases, { names = [], dtypes = [], quick, full }) {
  for (const name of names) {
    if (!cases.some((one) => one.name === name || one.group === name)) {
      const groups = [...new Set(cases.map((one) => one.group))]
      throw new RangeError(
        `no case or group of cases is called '${name}'\ngroups: ${groups.join(', ')}\ncases: ${cases.map((one) => one.name).join(', ')}`,
      )
    }
  }
  for (const dtype of dtypes) {
    if (!cases.some((one) => one.dtype === dtype)) {
      throw new RangeError(`no case has the dtype '${dtype}'\ndtypes: float32, bfloat16, float16`)
    }
  }
  const selected = cases.filter((one) => {
    if (dtypes.length > 0 && !dtypes.includes(one.dtype)) return false
    if (names.length > 0) return names.includes(one.name) || names.includes(one.group)
    return quick ? one.quick : full || !one.full
  })
  if (selected.length === 0)
    throw new RangeError('no case is left: name one with --case, or leave out --quick or --dtype')
  return selected
}
