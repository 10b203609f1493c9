/**
 * The Chromium of this machine, for pages in tests: `/usr/bin/chromium` and the like, or the path in `CHROMIUM`. As a
 * program it prints the path, and fails where there is none.
 */
import { existsSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

/** Undefined where there is none. */
export const CHROMIUM = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
].find((path) => path !== undefined && existsSync(path))

const FLAGS = [
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** How Playwright starts it. */
export const LAUNCH = { executablePath: CHROMIUM, args: [...FLAGS, '--disable-gpu'] }

/** The same with WebGPU, on Chromium's own software renderer, SwiftShader. */
export const LAUNCH_WEBGPU = {
  executablePath: CHROMIUM,
  args: [
    ...FLAGS,
    '--enable-unsafe-webgpu',
    '--use-webgpu-adapter=swiftshader',
    // Zeros that workgroups' memory begins with are written in a loop of the shader. SwiftShader itself would compile a
    // store for each of them, which takes ten times as long as all else.
    '--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension',
  ],
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  if (CHROMIUM === undefined) process.exit(1)
  console.log(CHROMIUM)
}
