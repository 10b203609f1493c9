// The threads of a workgroup, where they see of each other what they put in memory alone.
struct Invocation {
  @builtin(local_invocation_index) index: u32,
}

const NEIGHBOURS = 1u;

fn threadOf(invocation: Invocation) -> u32 { return invocation.index; }

fn ofNeighbours(swept: Swept) -> Swept { return swept; }
