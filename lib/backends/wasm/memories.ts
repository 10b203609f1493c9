import type { Engine } from './engine.js'
import { JobMemory } from './job-memory.js'

/** An engine, and the parts of its memory that jobs have. */
export class Memories {
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
