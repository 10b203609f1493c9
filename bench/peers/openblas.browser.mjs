/**
 * No page opens a library of BLAS.
 */
export const chooseBlas = () => ''
