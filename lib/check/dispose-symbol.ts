/** The key of `using`, which is newer than some versions of Node 20. */
export const disposeSymbol: symbol = Symbol.dispose ?? Symbol.for('Symbol.dispose')
