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

fn addTile(swept: Swept, x: Tile, place: u32) -> Swept {
  var next = swept;
  let t = params.temperature;
  let maximum = maximumOfTile(x);
  if (isZero(next.sum)) {
    next.unit = unitFor(maximum, t);
  } else if (isOutgrown(next.unit, maximum, t)) {
    next = rescaled(next, unitFor(maximum, t));
  }
  let first = valueOf(powersOf(x.a, next.unit, t)) + valueOf(powersOf(x.b, next.unit, t));
  let second = valueOf(powersOf(x.c, next.unit, t)) + valueOf(powersOf(x.d, next.unit, t));
  next.sum = add(next.sum, two(sumOf(first + second)));
  return next;
}

fn noteLogits(x: vec4f, place: u32, count: u32) {}
fn withNotes(swept: Swept) -> Swept { return swept; }
