// The demo: data parallel where mpirun has started several of it, else in one process.
const { OMPI_COMM_WORLD_SIZE, PMI_SIZE, MPI_LOCALNRANKS } = process.env
const ranks = Number(OMPI_COMM_WORLD_SIZE ?? PMI_SIZE ?? MPI_LOCALNRANKS ?? 1)
await import(ranks > 1 ? './data-parallel.mjs' : './main.mjs')
