/**
 * What a result has, worked out from the types of the arguments: a gradient that was asked for is there, in the kind of array
 * that it was asked for in, and so are the per-token results that `outputs` names. Where an option's value is not known
 * before the program runs, the field stays optional.
 */
import type { HeadGradientRequest } from './options.js'
import type { HeadGradients, LogitsGradient, TokenOutputs } from './result-parts.js'
import type { DeviceMemory, DType, Float16ArrayLike, TensorData } from './tensors.js'
import type { GpuBuffer, GpuMemory } from './webgpu.js'

/** The options that decide what a result has. Their types are inferred; the options of the function check them. */
export interface Asks<Gradient, Element, Outputs> {
  gradient?: Gradient | undefined
  gradientDType?: Element | undefined
  outputs?: Outputs | undefined
}

/** The names of per-token results. */
export type OutputNames = readonly (keyof TokenOutputs)[]

/** The per-token results that a list of names makes present. */
export type WithOutputs<Outputs> = Outputs extends readonly [infer First extends keyof TokenOutputs, ...infer Others]
  ? WithOutput<First> & WithOutputs<Others>
  : unknown

type WithOutput<Name extends keyof TokenOutputs> = Name extends unknown ? Required<Pick<TokenOutputs, Name>> : never

/** The elements of the gradient of logits. */
export type LogitsGradientData<Data extends TensorData, Gradient, Element> = Gradient extends TensorData
  ? Gradient
  : Gradient extends true
    ? NewArray<Data, Element>
    : Gradient extends 'in-place'
      ? Data
      : TensorData

/** The gradient of logits, where it was asked for. */
export type WithLogitsGradient<Data extends TensorData, Gradient, Element> = Gradient extends false | undefined
  ? unknown
  : Pick<LogitsGradient<LogitsGradientData<Data, Gradient, Element>>, 'gradLogits'>

/** What the result of a function of logits certainly has. */
export type Asked<Data extends TensorData, Gradient, Element, Outputs> = WithLogitsGradient<Data, Gradient, Element> &
  WithOutputs<Outputs>

/** A new array for the gradient of logits with the elements `Data`. */
type NewArray<Data extends TensorData, Element> = Data extends DeviceMemory
  ? DeviceMemory
  : Data extends GpuMemory
    ? GpuBuffer
    : Element extends DType
      ? ArrayOf<Element, Data>
      : Data

/** An array of that element type; `Data` itself where it is one. */
type ArrayOf<Element extends DType, Data> = Data extends ArraysOf[Element]
  ? Data
  : Element extends 'float32'
    ? Float32Array
    : Uint16Array

interface ArraysOf {
  float32: Float32Array
  float16: Uint16Array | Float16ArrayLike
  bfloat16: Uint16Array
}

/** The elements of the gradients of an output layer whose input has the elements `Data`. */
export type HeadGradientData<Data extends TensorData, Request, Element> = OrAny<
  Request extends HeadGradientRequest
    ? PartData<Data, Request[keyof Request & keyof HeadGradientRequest], Element>
    : PartData<Data, Request, Element>
>

type PartData<Data extends TensorData, Part, Element> = Part extends TensorData
  ? Part
  : Part extends true
    ? NewPart<Data, Element>
    : never

type NewPart<Data extends TensorData, Element> = Data extends DeviceMemory
  ? DeviceMemory
  : Data extends GpuMemory
    ? GpuBuffer
    : ArrayOf<Element extends DType ? Element : 'float32', undefined>

type OrAny<Data extends TensorData> = [Data] extends [never] ? TensorData : Data

/** The gradients of an output layer that were asked for. That of the bias exists only where there is a bias. */
export type WithHeadGradients<Request, Data extends TensorData> = Request extends true
  ? Required<Pick<HeadGradients<Data>, 'gradHidden' | 'gradWeight'>>
  : WithPart<Request, 'hidden', Pick<HeadGradients<Data>, 'gradHidden'>> &
      WithPart<Request, 'weight', Pick<HeadGradients<Data>, 'gradWeight'>> &
      WithPart<Request, 'bias', Pick<HeadGradients<Data>, 'gradBias'>>

type WithPart<Request, Part extends keyof HeadGradientRequest, Field> = Request extends {
  [Name in Part]: true | TensorData
}
  ? Required<Field>
  : unknown

/** What the result of a function of hidden states certainly has. */
export type AskedOfHead<Data extends TensorData, Request, Element, Outputs> = WithHeadGradients<
  Request,
  HeadGradientData<Data, Request, Element>
> &
  WithOutputs<Outputs>

/** The same for an output layer, where a request for gradients has no names but its own. */
export type AsksOfHead<Request, Element, Outputs> = Asks<Request, Element, Outputs> & {
  gradient?: Without<NoInfer<Request>, keyof HeadGradientRequest> | undefined
}

/** Refuses other names in an object; names that are computed cannot be told. */
type Without<Given, Name extends string> = Given extends object
  ? string extends keyof Given
    ? unknown
    : { [Other in Exclude<keyof Given, Name>]?: never }
  : unknown
