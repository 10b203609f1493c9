// The steps of a run, on one of the engines.
import type * as tf from '@tensorflow/tfjs'
import type { Scores } from '../moby-dick/losses.mjs'
import type { Model } from '../moby-dick/model.mjs'
import type { evaluate, Pair } from '../moby-dick/train.mjs'
import type { Cost, Way } from './events.js'

type Later<T> = T | Promise<T>

export interface Training {
  /** As those of ../moby-dick/train.mjs. */
  warmUpStep(model: Model, optimizer: tf.Optimizer, windows: Int32Array): Later<{ loss: number }>
  dpoStep(
    model: Model,
    optimizer: tf.Optimizer,
    pairs: Pair[],
    reference: Scores,
    beta: number,
  ): Later<{ loss: number; margin: number; accuracy: number }>
  scorePairs(model: Model, pairs: Pair[]): Later<Scores>
  evaluate(model: Model, pairs: Pair[], reference: Scores, beta: number): Later<ReturnType<typeof evaluate>>
  /** A step of DPO, and its times. */
  timedStep(
    way: Way,
    model: Model,
    optimizer: tf.Optimizer,
    pairs: Pair[],
    reference: Scores,
    beta: number,
  ): Later<Pick<Cost, 'lossMs' | 'stepMs'>>
  /** The loss of the last layer, its gradients with respect to the layer's input and weight, and the most bytes that they take. */
  lossAndGradients(
    way: Way,
    hidden: tf.Tensor,
    weight: tf.Tensor,
    labels: Int32Array,
    reference: Scores,
    beta: number,
  ): Promise<{ loss: number; gradients: ArrayLike<number>[]; bytes: number }>
}
