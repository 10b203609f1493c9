/** The Chromium of this machine; undefined where there is none. */
export const CHROMIUM: string | undefined
/** How Playwright starts it. */
export const LAUNCH: { executablePath: string | undefined; args: string[] }
/** The same with WebGPU, in software. */
export const LAUNCH_WEBGPU: typeof LAUNCH
