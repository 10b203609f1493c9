/**
 * All shaders that the webgpu backend can ask for.
 */
import { DIVERGENCES, SFT_NORMALIZATIONS } from '../../lib/backends/loss-fields.js'
import {
  headBiasShader,
  headFinishShader,
  headPlacesShader,
  headProductShader,
} from '../../lib/backends/webgpu/head-shaders.js'
import { LOSS_TYPES, pairShaders, tokenLossShaders, unpairedShaders } from '../../lib/backends/webgpu/loss-shaders.js'
import type { Shader } from '../../lib/backends/webgpu/shader.js'
import {
  finishGradientShader,
  finishRowsShader,
  logitsGradientShader,
  sequenceSumsShader,
  targetsShader,
  tokenLogProbsShader,
} from '../../lib/backends/webgpu/shaders.js'
import type { Job } from '../../lib/job.js'
import type { DType } from '../../lib/types/index.js'

const DTYPES: readonly DType[] = ['float32', 'float16', 'bfloat16']
const BOTH = [false, true] as const

/** All ways to choose one value for each name. */
function every<T extends object>(choices: { [Name in keyof T]: readonly T[Name][] }): T[] {
  const names = Object.keys(choices) as (keyof T)[]
  return names.reduce<T[]>(
    (found, name) => found.flatMap((one) => choices[name].map((value) => ({ ...one, [name]: value }))),
    [{} as T],
  )
}

const size = (dtype: DType) => (dtype === 'float32' ? 4 : 2)

function stages(): Shader[] {
  const sweeps = every<Parameters<typeof tokenLogProbsShader>[0]>({
    finds: ['sums', 'means', 'classMeans', 'all', 'classes'],
    dtype: DTYPES,
    vector: BOTH,
    CAPS: BOTH,
    merges: BOTH,
    subgroups: BOTH,
  }).filter(({ finds, subgroups }) => finds === 'sums' || !subgroups)
  const labels = every<Parameters<typeof targetsShader>[0]>({ WIDE: BOTH, mask: ['none', 'bytes', 'words'] })
  const summing = every<Parameters<typeof sequenceSumsShader>[0]>({ of: ['own', 'plain', 'logWeights'], WEIGHS: BOTH })
  const finishing = every<Parameters<typeof finishGradientShader>[0]>({
    WEIGHS: BOTH,
    HAS_OWN: BOTH,
    HAS_PLACED: BOTH,
    DEFERS: BOTH,
    HAS_CLASSES: BOTH,
  }).filter(({ HAS_OWN, HAS_PLACED, DEFERS, HAS_CLASSES }) => !(DEFERS && HAS_CLASSES) && !(HAS_OWN && HAS_PLACED))
  const writing = every<Parameters<typeof logitsGradientShader>[0]>({
    dtype: DTYPES,
    outDType: DTYPES,
    vector: BOTH,
    shared: BOTH,
    FULL: BOTH,
    CAPS: BOTH,
    HAS_CLASSES: BOTH,
  }).filter(({ dtype, outDType, shared }) => !shared || size(dtype) === size(outDType))
  return [
    ...labels.map(targetsShader),
    ...sweeps.flatMap((sweep) => [tokenLogProbsShader(sweep), finishRowsShader(sweep)]),
    ...summing.map(sequenceSumsShader),
    ...finishing.map(finishGradientShader),
    ...writing.map(logitsGradientShader),
  ]
}

/** What these functions look at of a job. */
const of = (job: object) => job as Job

function losses(): Shader[] {
  const constants = { fDivergence: 'reverse_kl', sftNormalization: 'tokens', average: false, rewardAlpha: 0 }
  const loss = (lossType: string, more = {}) => ({ constants: { ...constants, terms: [{ lossType }], ...more } })
  const all = new Float64Array(1)
  const pairs = [
    ...LOSS_TYPES.map((type) => of({ loss: loss(type) })),
    ...Object.keys(DIVERGENCES).map((fDivergence) => of({ loss: loss('sigmoid', { fDivergence }) })),
    ...Object.keys(SFT_NORMALIZATIONS).map((sftNormalization) => of({ loss: loss('sft', { sftNormalization }) })),
    of({ loss: loss('sigmoid', { rewardAlpha: 1, average: true }) }),
    of({ loss: loss('sft'), policy: { logWeights: all }, tokens: { plainWeights: all, labels: {} } }),
    of({ loss: { constants: { ...constants, terms: LOSS_TYPES.map((lossType) => ({ lossType })) } } }),
  ].flatMap((job) => Object.values(pairShaders(job)))
  const unpaired = ['kto', 'apo_zero_unpaired', 'bco', 'regression'].flatMap((lossType) =>
    Object.values(unpairedShaders(of({ unpairedLoss: { lossType } }))),
  )
  const tokens = every<Record<string, unknown>>({
    labelSmoothing: [0, 0.1],
    zLoss: [0, 0.1],
    dft: BOTH,
    classWeights: [undefined, all],
    weightsOfLabels: [undefined, all],
    weights: [undefined, all],
    gradient: [undefined, {}],
  }).flatMap(({ weights, gradient, ...tokenLoss }) =>
    Object.values(tokenLossShaders(of({ tokenLoss: { ...tokenLoss, divisor: 0 }, tokens: { weights }, gradient }))),
  )
  return [...pairs, ...unpaired, ...tokens]
}

function heads(): Shader[] {
  const ofTypes = every<{ a: DType; b: DType; bias: DType | undefined }>({
    a: DTYPES,
    b: DTYPES,
    bias: [undefined, ...DTYPES],
  })
  const finishing = every<{ dtype: DType; INDEXED: boolean }>({ dtype: DTYPES, INDEXED: BOTH })
  return [
    ...ofTypes.map((types) => headProductShader({ ...types, gathers: 'a' })),
    ...DTYPES.map((b) => headProductShader({ a: 'float32', b })),
    ...DTYPES.map((b) => headProductShader({ a: 'float32', b, gathers: 'b' })),
    ...finishing.map(({ dtype, INDEXED }) => headFinishShader(dtype, INDEXED)),
    headBiasShader(),
    headPlacesShader(),
  ]
}

/** Each once. */
export function allShaders(): Shader[] {
  const found = [...stages(), ...losses(), ...heads()].filter((shader: Shader | undefined) => shader !== undefined)
  return [...new Map(found.map((shader) => [shader.name, shader])).values()]
}
