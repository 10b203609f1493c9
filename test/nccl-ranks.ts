/**
 * Processes with a GPU each, played by the host, and a communicator between them that is written from the interface
 * alone: this process passes on what they gather. No assertions here.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { DIST } from './support.js'

const PRELUDE = `
  const { DeviceBuffer, Stream, getDevices, prepareFusedPreferenceLoss } = await import(${JSON.stringify(new URL('./cuda/index.mjs', DIST).href)})
  const ncclUrl = ${JSON.stringify(new URL('./distributed/nccl/index.mjs', DIST).href)}
  const { ncclCommunicator } = await import(ncclUrl)
  const [rank, size] = [Number(process.env.RANK), Number(process.env.SIZE)]
  const library = await import(${JSON.stringify(DIST.href)})
  const never = () => { throw new Error('nobody needs this') }
  const host = {
    rank, size, barrier: () => host.allGather(new Uint8Array(1), new Uint8Array(size)), abort: never,
    allGather: (send, receive) => new Promise((resolve) => {
      process.once('message', (gathered) => { receive.set(gathered); resolve() })
      process.send({ gather: send })
    }),
    // In the order of ranks.
    async allReduceSum(data) {
      const all = new data.constructor(size * data.length)
      await host.allGather(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), new Uint8Array(all.buffer))
      data.set(all.subarray(0, data.length))
      for (let r = 1; r < size; r++) for (let i = 0; i < data.length; i++) data[i] += all[r * data.length + i]
    },
  }
  const connect = (options) => ncclCommunicator(host, options)
  const there = (array, device = rank) => DeviceBuffer.from(array, { device })
  const read = (buffer, like) => { const copy = like.slice(); buffer.copyTo(copy); return [...copy] }
  const thrown = (call) => { try { call() } catch ({ code, name, message }) { return { code, name, message } } }
  const rejected = (promise) => promise.then(() => undefined, ({ code, name, message }) => ({ code, name, message }))
  const tell = (value) => process.send({ told: value })
  const collected = async () => {
    for (let i = 0; i < 6; i++) {
      gc()
      await new Promise((resolve) => setTimeout(resolve, 15))
    }
  }
`

/**
 * A program of a rank that runs `program` on a thread of its own, ends that when the program calls `end`, and tells the
 * milliseconds that this has taken, in an array.
 */
export function onThread(program: string): string {
  const thread = `
    import { parentPort } from 'node:worker_threads'
    process.send = (message) => parentPort.postMessage(message)
    parentPort.on('message', (message) => process.emit('message', message))
    const end = () => process.send({ end: true })
    ${PRELUDE}${program}`
  return `
    const { Worker } = await import('node:worker_threads')
    const thread = new Worker(${JSON.stringify(thread)}, { eval: true })
    process.on('message', (message) => thread.postMessage(message))
    tell(await new Promise((resolve, reject) => thread.once('error', reject).on('message', async (message) => {
      if (!message.end) return process.send(message)
      const begin = Date.now()
      await thread.terminate()
      resolve([Date.now() - begin])
    })))
  `
}

/** What has become of a rank. */
export interface Ended {
  /** What it passed to `tell`. */
  told: unknown
  code: number | null
  signal: string | null
  stderr: string
}

/**
 * Runs a program, which may use the names of PRELUDE, as each of the ranks. Ranks that take too long are ended.
 */
export async function onRanks(
  size: number,
  program: string,
  environment: Record<string, string | undefined> = {},
): Promise<Ended[]> {
  const children = Array.from({ length: size }, (_, rank) =>
    spawn(
      process.execPath,
      ['--expose-gc', '--input-type=module', '-e', `${PRELUDE}${program}\nprocess.disconnect()`],
      {
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
        serialization: 'advanced',
        env: { ...process.env, FPL_HOST_DEVICES: `${size}`, RANK: `${rank}`, SIZE: `${size}`, ...environment },
      },
    ),
  )
  let gathered: Uint8Array[] = []
  const pass = (rank: number, bytes: Uint8Array) => {
    gathered[rank] = bytes
    if (Object.keys(gathered).length < size) return
    const all = Buffer.concat(gathered)
    gathered = []
    for (const child of children) if (child.connected) child.send(all)
  }
  const timer = setTimeout(() => {
    for (const child of children) child.kill('SIGKILL')
  }, 30_000)
  try {
    return await Promise.all(children.map((child, rank) => ended(child, (bytes) => pass(rank, bytes))))
  } finally {
    clearTimeout(timer)
  }
}

function ended(child: ChildProcess, pass: (bytes: Uint8Array) => void): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const end: Ended = { told: undefined, code: null, signal: null, stderr: '' }
    child.stderr?.setEncoding('utf8').on('data', (text) => {
      end.stderr += text
    })
    child.on('message', (message: { gather: Uint8Array } | { told: unknown }) => {
      if ('gather' in message) pass(message.gather)
      else end.told = message.told
    })
    child.on('error', reject).on('close', (code, signal) => resolve({ ...end, code, signal }))
  })
}
