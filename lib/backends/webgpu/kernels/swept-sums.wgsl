// What a sweep finds of a part of a row where nothing but the sum of its exponentials is asked for.
struct Swept {
  unit: Unit,
  sum: TwoFloat,  // Σ_{j≠label} e^(x_j / T), in units
}

fn nothingSwept() -> Swept { return Swept(Unit(0, 0), two(0)); }

fn rescaled(swept: Swept, unit: Unit) -> Swept {
  if (isZero(swept.sum)) { return Swept(unit, two(0)); }
  return Swept(unit, swept.sum * ratio(swept.unit, unit, params.temperature));
}

// Of two parts of a row in the same unit.
fn summed(a: Swept, b: Swept) -> Swept { return Swept(a.unit, add(a.sum, b.sum)); }

fn noteLogits(x: vec4f, place: u32, count: u32) {}
fn withNotes(swept: Swept) -> Swept { return swept; }
