/** A command of the command line. */
export interface Command {
  /** One line for the list of commands. */
  summary: string
  /**
   * @param args what follows the command's name; parsed with `parseArgs` of node:util, whose errors are wrong use
   * @returns the exit code
   */
  run(args: string[]): number | Promise<number>
}
