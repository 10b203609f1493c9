// The threads of a workgroup, numbered subgroup by subgroup. Each subgroup has fours of neighbours, whatever its size: these
// put together what they have swept, in an order that does not depend on that size.
struct Invocation {
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
}

const NEIGHBOURS = 4u;

fn threadOf(invocation: Invocation) -> u32 { return invocation.subgroup * invocation.size + invocation.lane; }

// What the first of four neighbours gets is the sum of them all.
fn ofNeighbours(swept: Swept) -> Swept {
  let pair = merged(swept, Swept(Unit(quadSwapX(swept.unit.base), quadSwapX(swept.unit.exponent)), quadSwapX(swept.sum)));
  return merged(pair, Swept(Unit(quadSwapY(pair.unit.base), quadSwapY(pair.unit.exponent)), quadSwapY(pair.sum)));
}
