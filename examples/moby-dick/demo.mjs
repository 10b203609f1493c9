// The demo: data parallel where mpirun has started several of it, else in one process.
const { OMPI_COMM_WORLD_SIZE, PMI_SIZE } = process.env
await import(Number(OMPI_COMM_WORLD_SIZE ?? PMI_SIZE ?? 1) > 1 ? './data-parallel.mjs' : './main.mjs')
