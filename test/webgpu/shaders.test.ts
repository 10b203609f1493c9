/**
 * Every shader compiles: in Chromium, Deno, and whatever else runs these tests.
 */
import { expect, test } from 'vitest'
import { newDevice, subgroupFeatures } from './device.js'
import { allShaders } from './shaders.js'

test('every shader compiles without a complaint', async () => {
  const features = await subgroupFeatures()
  const device = await newDevice({}, features)
  const shaders = allShaders().filter(({ code }) => features.length > 0 || !code.startsWith('enable subgroups'))
  expect(shaders.length).toBeGreaterThan(300)
  for (const { name, code } of shaders) {
    device.pushErrorScope('validation')
    const { messages } = await device.createShaderModule({ code }).getCompilationInfo()
    const error = await device.popErrorScope()
    const lines = messages.map(({ lineNum, message }) => `${lineNum}: ${message}: ${code.split('\n')[lineNum - 1]}`)
    expect([lines, error?.message], name).toEqual([[], undefined])
  }
  device.destroy()
})
