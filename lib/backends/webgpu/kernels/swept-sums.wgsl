// What a sweep finds of a part of a row where nothing but the sum of its exponentials is asked for.
struct Swept {
  unit: Unit,
  sum: TwoFloat,  // Σ_{j≠label} e^(x_j / T), in units
}

fn nothingSwept() -> Swept { return Swept(Unit(0, 0), two(0)); }

fn rescaled(swept: Swept, unit: Unit) -> Swept {
  let factor = ratio(swept.unit, unit, params.temperature);
  return Swept(unit, select(swept.sum * factor, two(0), isZero(swept.sum)));
}

// Adds up parts of a row.
fn merged(a: Swept, b: Swept) -> Swept {
  if (isZero(b.sum)) { return a; }
  if (isZero(a.sum)) { return b; }
  var most = a;
  var least = b;
  if (outgrows(b.unit, a.unit, 0, params.temperature)) {
    most = b;
    least = a;
  }
  most.sum = add(most.sum, rescaled(least, most.unit).sum);
  return most;
}

// Adds 16 logits.
fn addTile(swept: Swept, x: array<vec4f, 4>, place: u32) -> Swept {
  var next = swept;
  let t = params.temperature;
  let maximum = maximumOf(max(max(x[0], x[1]), max(x[2], x[3])));
  if (isZero(next.sum)) {
    next.unit = unitFor(maximum, t);
  } else if (isOutgrown(next.unit, maximum, t)) {
    next = rescaled(next, unitFor(maximum, t));
  }
  var e = array<vec4f, 4>();
  for (var i = 0; i < 4; i++) { e[i] = valueOf(powersOf(x[i], next.unit, t)); }
  next.sum = add(next.sum, two(sumOf((e[0] + e[1]) + (e[2] + e[3]))));
  return next;
}

fn addLogits(swept: Swept, x: vec4f, place: u32, count: u32) -> Swept { return swept; }
