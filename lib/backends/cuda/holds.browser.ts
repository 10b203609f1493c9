/**
 * CUDA in a browser: there is none, and nothing of it to hold.
 */
export class Holds {
  add(_things: readonly unknown[]): void {}

  letGo(_isForgotten: boolean): void {}
}
