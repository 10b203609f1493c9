// Checks and measures the GPU, in a worker of its own; it begins at once, and the page ends it by ending the worker.
import { describe, findAdapter } from './adapter.mjs'
import { bench } from './bench.mjs'
import { CHECKS, check } from './check.mjs'

const tell = (/** @type {import('../events.js').GpuEvent} */ event) => self.postMessage(event)

async function run() {
  const found = await findAdapter()
  if (!found) throw new Error('this browser shows no GPU')
  const adapter = describe(found)
  tell({ type: 'adapter', adapter, checks: CHECKS })
  const { maxBufferSize, maxStorageBufferBindingSize } = found.limits
  const device = await found.requestDevice({
    requiredFeatures: adapter.features,
    requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
  })
  for await (const checked of check(device)) tell({ type: 'checked', checked })
  for await (const benched of bench(device, adapter.software)) tell({ type: 'benched', benched })
  device.destroy()
  tell({ type: 'finished' })
}

run().catch((error) => tell({ type: 'failed', problem: error instanceof Error ? error.message : String(error) }))
