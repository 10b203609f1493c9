/**
 * A worker that runs jobs. It copies what lies in shared memory itself, before the job and after it.
 */
import { type Engine, OutOfMemory } from './engine.js'
import { platform } from './platform.js'
import type { WorkerListeners, WorkerStart, WorkerThread } from './platform-type.js'

/** A runner has the next task already when it is done with one. */
export const MOST_PER_RUNNER = 2

/** Bytes of one buffer that are copied to or from the module's memory. */
export interface Copies {
  readonly buffer: ArrayBufferLike
  /** Of each stretch the byte in the buffer where it begins, its address, and its number of bytes. */
  readonly stretches: number[]
}

/** A job in the module's memory, as a worker gets it. */
export interface Task {
  readonly addresses: readonly [values: number, job: number]
  readonly before: readonly Copies[]
  readonly after: readonly Copies[]
}

/** The answer of a worker to a task. */
interface Answer {
  id: number
  finished?: boolean
  problem?: string
}

/** The worker is gone, or has never come. */
export class WorkerLost extends Error {}

interface Waiting {
  resolve(finished: boolean): void
  reject(error: Error): void
}

/** It keeps the process alive while promises wait for it. */
export class Runner {
  private readonly worker: WorkerThread
  private readonly waiting = new Map<number, Waiting>()
  private readonly errands = new Set<Errand>()
  private readonly cells: number[] = []
  private lastId = 0
  private gone = false

  constructor(
    private readonly engine: Engine,
    start: WorkerStart,
    { error, exit }: Pick<WorkerListeners, 'error' | 'exit'>,
  ) {
    const leave = () => {
      this.leave()
      exit()
    }
    this.worker = platform.startWorker(start, { message: (answer) => this.hear(answer as Answer), error, exit: leave })
  }

  get isBusy(): boolean {
    return this.waiting.size > 0
  }

  /** Tasks that it has not done yet, as far as is known. */
  get load(): number {
    return this.waiting.size + this.errands.size
  }

  /** Runs a task; false when it was cancelled. */
  run(task: Task): Promise<boolean> {
    if (this.gone) return Promise.reject(new WorkerLost())
    return new Promise((resolve, reject) => {
      const id = ++this.lastId
      if (!this.isBusy) this.worker.keepAlive(true)
      this.waiting.set(id, { resolve, reject })
      this.worker.post({ id, ...task })
    })
  }

  /** Gives it a task of a Sync call, whose thread hears no messages. */
  send(task: Task): Errand {
    const cell = this.cells.pop() ?? this.engine.allocate(64) / 4
    const errand = new Errand(this.engine, cell, ++this.lastId)
    this.errands.add(errand)
    this.worker.post({ cell, id: errand.id, ...task })
    return errand
  }

  /** Forgets a task that is done or taken back. */
  close(errand: Errand): void {
    this.errands.delete(errand)
    this.cells.push(errand.cell)
  }

  end(): Promise<unknown> {
    return this.worker.end()
  }

  private hear({ id, finished, problem }: Answer): void {
    const waiting = this.waiting.get(id)
    this.waiting.delete(id)
    if (!this.isBusy) this.worker.keepAlive(false)
    if (problem === undefined) waiting?.resolve(finished === true)
    else waiting?.reject(new OutOfMemory(problem))
  }

  private leave(): void {
    this.gone = true
    for (const { reject } of this.waiting.values()) reject(new WorkerLost())
    this.waiting.clear()
  }
}

// What a cell says, where it is not the number of a task that no worker has begun.
const TAKEN_BACK = 0
const BEGUN = -1
const DONE = -2
const FAILED = -3

/** A task of a Sync call that has been given to a worker. An int32 of the shared memory, its cell, says how it stands. */
export class Errand {
  constructor(
    private readonly engine: Engine,
    readonly cell: number,
    readonly id: number,
  ) {
    Atomics.store(this.cells, cell, id)
  }

  get isDone(): boolean {
    return this.state === DONE || this.state === FAILED
  }

  /** Takes it back, if the worker has not begun it: it never will. */
  takeBack(): boolean {
    return Atomics.compareExchange(this.cells, this.cell, this.id, TAKEN_BACK) === this.id
  }

  /** Waits until it is done, well or not. */
  settle(): void {
    while (!this.isDone) Atomics.wait(this.cells, this.cell, BEGUN)
  }

  /** Waits until it is done. */
  finish(): void {
    this.settle()
    if (this.state === FAILED) throw new OutOfMemory('a worker has failed')
  }

  private get state(): number {
    return Atomics.load(this.cells, this.cell)
  }

  private get cells(): Int32Array {
    return this.engine.views.int32
  }
}
