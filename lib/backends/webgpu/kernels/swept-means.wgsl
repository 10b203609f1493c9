// What a sweep finds of a part of a row where the sum of its exponentials and that of its logits are asked for.
struct Swept {
  unit: Unit,
  sum: TwoFloat,     // Σ_{j≠label} e^(x_j / T), in units
  logits: TwoFloat,  // Σ_j x_j, the label with them; of x_j times the weight of its class where classes have weights
}

fn nothingSwept() -> Swept { return Swept(Unit(0, 0), two(0), two(0)); }

fn rescaled(swept: Swept, unit: Unit) -> Swept {
  if (isZero(swept.sum)) { return Swept(unit, two(0), swept.logits); }
  return Swept(unit, swept.sum * ratio(swept.unit, unit, params.temperature), swept.logits);
}

// Of two parts of a row in the same unit.
fn summed(a: Swept, b: Swept) -> Swept { return Swept(a.unit, add(a.sum, b.sum), add(a.logits, b.logits)); }

var<private> noted: TwoFloat;

fn noteLogits(x: vec4f, place: u32, count: u32) {
  if (HAS_CLASSES) {
    for (var i = 0u; i < min(count, 4); i++) { noted = add(noted, ofClass(x[i], place + i)); }
    return;
  }
  noted = add(noted, sumOfInside(x, count));
}

fn withNotes(swept: Swept) -> Swept { return Swept(swept.unit, swept.sum, noted); }
