/**
 * The error of a peer that this machine does not have: there is no need to try it again in the next case.
 */
export class Absent extends Error {}
