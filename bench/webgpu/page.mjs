/**
 * What a page of `npm run bench -- --backend webgpu` offers the program that opens it.
 */
import { measure } from './measure.mjs'

Object.assign(globalThis, { measure })
