// What is known of the visitor's GPU.

/** Features of WebGPU that this package can use. */
const FEATURES = /** @type {const} */ (['shader-f16', 'subgroups', 'timestamp-query'])

/** Limits that it looks at. */
const LIMITS = /** @type {const} */ ([
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
])

/** The adapter that TensorFlow.js takes as well; undefined where there is none. */
export async function findAdapter() {
  return (await navigator.gpu?.requestAdapter({ powerPreference: 'high-performance' })) ?? undefined
}

/** The name of an adapter, of the words that a browser tells of it. */
export function adapterName(/** @type {GPUAdapterInfo} */ { vendor, architecture, device, description }) {
  const words = [description, device, architecture, vendor].filter((word) => word)
  return words.length === 0 ? 'a GPU that the browser does not name' : words.slice(0, 2).join(', ')
}

/** Whether it is a program on the processor. */
export function isSoftware(/** @type {GPUAdapterInfo} */ { architecture, description, isFallbackAdapter }) {
  return isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe/i.test(`${architecture} ${description}`)
}

/** All that is told of an adapter, for the file that a visitor downloads. */
export function describe(/** @type {GPUAdapter} */ { info, features, limits }) {
  const { vendor, architecture, device, description } = info
  return {
    name: adapterName(info),
    vendor,
    architecture,
    device,
    description,
    software: isSoftware(info),
    features: FEATURES.filter((name) => features.has(name)),
    limits: Object.fromEntries(LIMITS.map((name) => [name, limits[name]])),
  }
}
