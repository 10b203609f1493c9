// The demo: data parallel where mpirun has started several of it, else in one process.
const { OMPI_COMM_WORLD_SIZE, PMI_SIZE, PMI_PORT } = process.env
// With -pmi-port MPICH does not tell how many there are.
const areSeveral = Number(OMPI_COMM_WORLD_SIZE ?? PMI_SIZE ?? 1) > 1 || PMI_PORT !== undefined
await import(areSeveral ? './data-parallel.mjs' : './main.mjs')
