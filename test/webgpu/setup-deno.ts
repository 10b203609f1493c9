/**
 * What Vitest's threads need of Deno: without it the end of a run is an error, whenever Vitest still listens.
 */
import { parentPort } from 'node:worker_threads'

if (parentPort !== null) parentPort.removeAllListeners = () => parentPort as typeof parentPort & object
