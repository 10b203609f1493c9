/** The folder with NCCL's `include` and `lib`; undefined where it has not been installed. */
export function ncclFolder(): string | undefined
