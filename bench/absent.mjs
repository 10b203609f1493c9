/**
 * The error of a peer that is not installed on this machine, so that later cases do not try it again.
 */
export class Absent extends Error {}
