/**
 * The wasm backend: the C++ kernels as WebAssembly, where no native binary loads. Its memory is that of the modules: logits
 * and their gradient pass through it a chunk at a time.
 */
import { failure } from '../../errors.js'
import type { Backend, Job, RunSettings } from '../../job.js'
import type { HostArray } from '../../types/index.js'
import { untilAborted } from '../signals.js'

import { turn } from '../turn.js'
import { Crew, warnAlone } from './crew.js'
import { Engine, OutOfMemory } from './engine.js'
import { isSharedMemory, type JobMemory } from './job-memory.js'
import { Memories } from './memories.js'
import { bytesOf, type JobPart, partsOf } from './parts.js'
import { platform } from './platform.js'
import { MOST_PER_RUNNER, type Task, WorkerLost } from './runner.js'
import { SharedRun } from './shared-run.js'
import { type Module, WebAssembly } from './webassembly.js'

/** A call with fewer logits than this is over before a worker has woken up. */
const ALONE_BELOW = 1 << 16

export class WasmBackend implements Backend {
  readonly name = 'wasm'
  /** Bytes of logits in the memory of the module for each thread, or one row where that is more. */
  chunk = 1 << 20
  /** How long a promise takes from this thread before it lets the event loop turn, in milliseconds. */
  slice = 10
  private alone: Memories | undefined
  private crew: Crew | undefined
  private shared: Memories | undefined
  private crewIsMissing = false

  /**
   * `module`: for one thread. `threadsModule` gives the one for several, where memory can be shared; it throws an error
   * that says why there is none. Throws an error that says what is wrong with the module.
   */
  constructor(
    private readonly module: Module,
    private readonly threadsModule: () => Module,
  ) {
    this.withEngine()
  }

  runSync(job: Job, settings: RunSettings): void {
    const threads = this.threadsFor(job, settings)
    const crew = threads > 1 && platform.maySleep ? this.withCrew() : undefined
    if (crew && this.canShareOut(job)) {
      this.runShared(job, settings, crew, threads - 1)
      return
    }
    crew?.wantHelpers(threads - 1)
    const memories = crew === undefined ? this.withEngine() : (this.shared as Memories)
    for (const part of partsOf(job, this.chunk * (crew ? threads : 1), false)) {
      this.runHere(part, { ...settings, threads: crew ? threads : 1 }, memories)
    }
  }

  async run(job: Job, settings: RunSettings): Promise<void> {
    const state: State = { aborted: false, writes: false, jobs: new Set() }
    const cancel = () => {
      state.aborted = true
      for (const memory of state.jobs) memory.cancelJob()
    }
    await untilAborted(settings.signal, this.runParts(job, settings, state), cancel)
  }

  /** Ends the workers and frees all memory. Calls that run are waited for; those that come later begin anew. */
  async close(): Promise<void> {
    const { crew } = this
    this.alone = this.shared = this.crew = undefined
    await crew?.close()
  }

  /** Ends the workers at once, whatever they do; calls that wait for them do their work themselves. For tests. */
  async endWorkers(): Promise<void> {
    await this.crew?.end()
  }

  /** Bytes of the memory of all modules. */
  get byteLength(): number {
    return (this.alone?.engine.byteLength ?? 0) + (this.crew?.engine.byteLength ?? 0)
  }

  /** False when the call was aborted before it wrote. */
  private async runParts(job: Job, settings: RunSettings, state: State): Promise<boolean> {
    await turn()
    const isSmall = sizeOf(job) < ALONE_BELOW
    const crew = isSmall ? undefined : this.withCrew()
    const threads = this.threadsFor(job, settings)
    // Either runners share the parts, or helpers the work of each part.
    const runners = this.canShareOut(job) ? threads : 1
    const perPart = crew && runners === 1 ? threads : 1
    crew?.wantHelpers(perPart - 1)
    const memories = crew === undefined ? this.withEngine() : (this.shared as Memories)
    const all = { ...settings, threads: perPart }
    const parts = partsOf(job, this.chunk * perPart, settings.signal !== undefined)
    const onTheWay = new Set<Promise<void>>()
    let sliceEnd = performance.now() + this.slice
    let finished = true
    try {
      for (const part of parts) {
        if (part.follows) await Promise.all(onTheWay)
        else if (onTheWay.size >= MOST_PER_RUNNER * runners) await Promise.race(onTheWay)
        if (performance.now() >= sliceEnd) {
          await turn()
          sliceEnd = performance.now() + this.slice
        }
        if ((state.aborted && !state.writes) || !finished) return false
        state.writes ||= part.writes
        if (crew?.works) {
          const there = (task: Task) => crew.run(task, runners)
          const running = this.runThere(part, all, memories, there, state).then((done) => {
            finished &&= done
            onTheWay.delete(running)
          })
          onTheWay.add(running)
          running.catch(() => {}) // it is waited for below
        } else {
          this.runHere(part, all, memories)
        }
      }
      await Promise.all(onTheWay)
      return finished
    } finally {
      await Promise.allSettled(onTheWay)
    }
  }

  /** Runs a part on a worker; false when it was cancelled. */
  private async runThere(
    { job }: JobPart,
    settings: RunSettings,
    memories: Memories,
    run: (task: Task) => Promise<boolean>,
    state: State,
  ): Promise<boolean> {
    const memory = memories.take()
    try {
      memory.put(job, settings)
      if (!state.writes) state.jobs.add(memory)
      const finished = await run(memory.task)
      if (finished) memory.take()
      return finished
    } catch (error) {
      if (error instanceof WorkerLost) {
        memory.run()
        memory.take()
        return true
      }
      throw this.lost(error)
    } finally {
      state.jobs.delete(memory)
      memories.give(memory)
    }
  }

  /** Runs a part on this thread. */
  private runHere({ job }: JobPart, settings: RunSettings, memories: Memories): void {
    const memory = memories.take()
    try {
      memory.put(job, settings)
      memory.run()
      memory.take()
    } catch (error) {
      throw this.lost(error)
    }
    memories.give(memory)
  }

  private runShared(job: Job, settings: RunSettings, crew: Crew, runners: number): void {
    try {
      const parts = partsOf(job, this.chunk, false)
      new SharedRun(this.shared as Memories, crew, runners).run(parts, { ...settings, threads: 1 })
    } catch (error) {
      throw this.lost(error)
    }
  }

  /** The error for the caller. A module that has run out of memory in the middle of a job is not used again. */
  private lost(error: unknown): unknown {
    if (!(error instanceof OutOfMemory || error instanceof WebAssembly.RuntimeError)) return error
    void this.close()
    return failure('ERR_OUT_OF_MEMORY', `the wasm backend has run out of memory: ${error.message}`)
  }

  /** Whether workers can each take parts of the job and copy their logits: it is large, and they can reach them. */
  private canShareOut({ policy, gradient }: Job): boolean {
    const rows = (policy ?? gradient)?.logits
    if (rows === undefined || !isSharedMemory((rows.data as HostArray).buffer)) return false
    return bytesOf(rows) > this.chunk
  }

  private threadsFor(job: Job, settings: RunSettings): number {
    return sizeOf(job) < ALONE_BELOW ? 1 : settings.threads || platform.threads
  }

  private withEngine(): Memories {
    this.alone ??= new Memories(new Engine(this.module, false))
    return this.alone
  }

  private withCrew(): Crew | undefined {
    if (this.crew === undefined && !this.crewIsMissing && platform.sharesMemory) {
      try {
        this.crew = new Crew(this.threadsModule())
        this.shared = new Memories(this.crew.engine)
      } catch (error) {
        this.crewIsMissing = true
        warnAlone(error)
      }
    }
    return this.crew
  }
}

/** A promise's. */
interface State {
  aborted: boolean
  /** It has begun to write to the caller's arrays, and cannot be aborted any more. */
  writes: boolean
  readonly jobs: Set<JobMemory>
}

/** Logits of the job, an output layer's in proportion to what they cost. */
function sizeOf({ policy, gradient, headGradient }: Job): number {
  const rows = (policy ?? gradient ?? headGradient)?.logits
  const head = (policy ?? headGradient)?.head
  return rows === undefined ? 0 : rows.batch * rows.time * rows.vocab * (1 + (head?.hidden.vocab ?? 0) / 8)
}
