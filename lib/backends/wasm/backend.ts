/**
 * The wasm backend: the C++ kernels as WebAssembly, where no native binary loads. Its memory is that of the modules: logits
 * and their gradient pass through it a chunk at a time.
 */
import { failure } from '../../errors.js'
import type { Backend, Job, RunSettings } from '../../job.js'
import { untilAborted } from '../signals.js'
import { turn } from '../turn.js'
import { Crew, WorkerLost, warnAlone } from './crew.js'
import { Engine, OutOfMemory } from './engine.js'
import { JobMemory } from './job-memory.js'
import { type JobPart, partsOf } from './parts.js'
import { platform } from './platform.js'
import { type Module, WebAssembly } from './webassembly.js'

/** A call with fewer logits than this is over before a worker has woken up. */
const ALONE_BELOW = 1 << 16

/** Jobs of one promise that are on their way to the worker, or on their way back. */
const MOST_ON_THE_WAY = 2

/** An engine, and the parts of its memory that jobs have. */
class Memories {
  private readonly free: JobMemory[] = []

  constructor(readonly engine: Engine) {}

  take(): JobMemory {
    return this.free.pop() ?? new JobMemory(this.engine)
  }

  give(memory: JobMemory): void {
    memory.drop()
    this.free.push(memory)
  }
}

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
    if (crew) crew.wantHelpers(threads - 1)
    const memories = crew === undefined ? this.withEngine() : (this.shared as Memories)
    const all = { ...settings, threads: crew ? threads : 1 }
    const parts = partsOf(job, this.chunk * (crew ? threads : 1), settings.signal !== undefined)
    const onTheWay = new Set<Promise<boolean>>()
    let sliceEnd = performance.now() + this.slice
    let finished = true
    try {
      for (const part of parts) {
        if (part.follows || onTheWay.size >= MOST_ON_THE_WAY) {
          for (const each of part.follows ? [...onTheWay] : [...onTheWay].slice(0, 1))
            finished = (await each) && finished
        }
        if (performance.now() >= sliceEnd) {
          await turn()
          sliceEnd = performance.now() + this.slice
        }
        if ((state.aborted && !state.writes) || !finished) return false
        state.writes ||= part.writes
        if (crew?.works) {
          const running = this.runThere(part, all, memories, crew, state)
          onTheWay.add(running)
          running.then(
            () => onTheWay.delete(running),
            () => {},
          )
        } else {
          this.runHere(part, all, memories)
        }
      }
      for (const each of onTheWay) finished = (await each) && finished
      return finished
    } finally {
      await Promise.allSettled(onTheWay)
    }
  }

  /** Runs a part on the worker; false when it was cancelled. */
  private async runThere(
    { job }: JobPart,
    settings: RunSettings,
    memories: Memories,
    crew: Crew,
    state: State,
  ): Promise<boolean> {
    const memory = memories.take()
    try {
      memory.put(job, settings)
      if (!state.writes) state.jobs.add(memory)
      const finished = await crew.run(memory.addresses)
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

  /** The error for the caller. A module that has run out of memory in the middle of a job is not used again. */
  private lost(error: unknown): unknown {
    if (!(error instanceof OutOfMemory || error instanceof WebAssembly.RuntimeError)) return error
    void this.close()
    return failure('ERR_OUT_OF_MEMORY', `the wasm backend has run out of memory: ${error.message}`)
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
