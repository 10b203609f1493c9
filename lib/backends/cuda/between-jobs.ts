/**
 * What a call of several jobs does with device memory between them: it holds it, and copies it from and to arrays.
 */
import type { RunSettings, Wait } from '../../job.js'
import { COPY, cudaCall, cudaPromise } from './calls.js'
import { Holds } from './holds.js'
import { nextId } from './index.js'
import { cudaFunctions } from './open.js'

/** What a call holds. */
export function noHolds(): Pick<Holds, 'add' | 'letGo'> {
  return new Holds()
}

/** Fills an array with what is at an address. Its memory must stay there until then. */
export function copyToHost(array: ArrayBufferView, place: bigint, settings: RunSettings): Wait {
  return copy(COPY.toHost, array, Number(place), array, settings)
}

/** Copies an array to an address. */
export function copyToDevice(place: bigint, array: ArrayBufferView, settings: RunSettings): Wait {
  return copy(COPY.toDevice, Number(place), array, array, settings)
}

type Side = number | ArrayBufferView

function copy(kind: number, to: Side, from: Side, array: ArrayBufferView, settings: RunSettings): Wait {
  const { device = 0, stream = 0n } = settings
  const args = [device, kind, to, from, array.byteLength, Number(stream)] as const
  return {
    async run() {
      await cudaPromise(cudaFunctions().copyAsync(nextId(), ...args, [array]))
    },
    runSync: () => cudaCall(() => cudaFunctions().copy(...args)),
  }
}
