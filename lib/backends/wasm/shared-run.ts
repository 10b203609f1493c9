/**
 * A Sync call on logits in memory that threads share: the calling thread and runners take the parts of the job one by one,
 * and each copies the logits of its parts.
 */
import type { Job, RunSettings } from '../../job.js'
import type { Crew } from './crew.js'
import type { JobMemory } from './job-memory.js'
import type { Memories } from './memories.js'
import type { JobPart } from './parts.js'
import { type Errand, MOST_PER_RUNNER, type Runner } from './runner.js'

/** A part that a runner has. */
interface Away {
  runner: Runner
  errand: Errand
  memory: JobMemory
}

export class SharedRun {
  private away: Away[] = []

  constructor(
    private readonly memories: Memories,
    private readonly crew: Crew,
    private readonly runners: number,
  ) {}

  run(parts: Iterable<JobPart>, settings: RunSettings): void {
    try {
      for (const { job, follows } of parts) {
        if (follows) this.finishAll()
        this.runPart(job, settings)
      }
      this.finishAll()
    } finally {
      this.leaveNone()
    }
  }

  private runPart(job: Job, settings: RunSettings): void {
    for (const each of this.away.filter(({ errand }) => errand.isDone)) this.finish(each)
    const memory = this.memories.take()
    memory.put(job, settings)
    const runner = memory.copiesRows ? this.crew.runner(this.runners) : undefined
    if (runner !== undefined && runner.load < MOST_PER_RUNNER) {
      this.away.push({ runner, errand: runner.send(memory.task), memory })
      return
    }
    memory.run()
    memory.take()
    this.memories.give(memory)
  }

  /** Does what no runner has begun, the last first, and waits for the others. */
  private finishAll(): void {
    while (this.away.length > 0) this.finish(this.away[this.away.length - 1])
  }

  private finish(each: Away): void {
    const { runner, errand, memory } = each
    if (errand.takeBack()) memory.run()
    else errand.finish()
    this.away.splice(this.away.indexOf(each), 1)
    runner.close(errand)
    memory.take()
    this.memories.give(memory)
  }

  /** After an error, too, no runner is left with arrays of the caller's. */
  private leaveNone(): void {
    for (const { errand } of this.away) if (!errand.takeBack()) errand.settle()
  }
}
