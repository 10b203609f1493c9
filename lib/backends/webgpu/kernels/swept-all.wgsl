// What a sweep finds of a part of a row where more than the sum of its exponentials is asked for.
struct Swept {
  unit: Unit,
  sum: TwoFloat,       // Σ_{j≠label} e^(x_j / T), in units
  weighted: TwoFloat,  // Σ_{j≠label} e · log(e), e in units: for the entropy
  squares: TwoFloat,   // Σ_{j≠label} e²
  maximum: f32,
  argmax: i32,         // first place of the maximum, the label left out; -1 where all are -∞
  logits: TwoFloat,    // Σ_j x_j, the label with them
  ofClasses: TwoFloat, // the same of x_j times the weight of its class
}

fn nothingSwept() -> Swept {
  return Swept(Unit(0, 0), two(0), two(0), two(0), -infinity(), -1, two(0), two(0));
}

fn rescaled(swept: Swept, unit: Unit) -> Swept {
  var next = swept;
  next.unit = unit;
  if (isZero(swept.sum)) { return next; }
  let factor = ratio(swept.unit, unit, params.temperature);
  let shift = logRatio(unit, swept.unit, params.inverse);
  next.weighted = two(0);
  if (factor != 0) { next.weighted = sub(swept.weighted, mul(shift, swept.sum)) * factor; }
  next.sum = swept.sum * factor;
  next.squares = swept.squares * factor * factor;
  return next;
}

// Adds up parts of a row.
fn merged(a: Swept, b: Swept) -> Swept {
  var most = a;
  var least = b;
  if (isZero(a.sum) || (!isZero(b.sum) && outgrows(b.unit, a.unit, 0, params.temperature))) {
    most = b;
    least = a;
  }
  least = rescaled(least, most.unit);
  most.sum = add(most.sum, least.sum);
  most.weighted = add(most.weighted, least.weighted);
  most.squares = add(most.squares, least.squares);
  if (least.maximum > most.maximum || (least.maximum == most.maximum && u32(least.argmax) < u32(most.argmax))) {
    most.maximum = least.maximum;
    most.argmax = least.argmax;
  }
  most.logits = add(most.logits, least.logits);
  most.ofClasses = add(most.ofClasses, least.ofClasses);
  return most;
}

// Adds 16 logits, of which x[i] is at place + i · 4 · WORKGROUP in the row.
fn addTile(swept: Swept, x: array<vec4f, 4>, place: u32) -> Swept {
  var next = swept;
  let t = params.temperature;
  let maximum = maximumOf(max(max(x[0], x[1]), max(x[2], x[3])));
  if (isZero(next.sum)) {
    next.unit = unitFor(maximum, t);
  } else if (isOutgrown(next.unit, maximum, t)) {
    next = rescaled(next, unitFor(maximum, t));
  }
  var e = vec4f(0);
  var weighted = vec4f(0);
  var squares = vec4f(0);
  for (var i = 0; i < 4; i++) {
    let powers = powersOf(x[i], next.unit, t);
    let value = valueOf(powers);
    e += value;
    weighted += value * (vec4f(powers.power) * LN2.x + powers.rest);
    squares += value * value;
  }
  next.sum = add(next.sum, two(sumOf(e)));
  next.weighted = add(next.weighted, two(sumOf(weighted)));
  next.squares = add(next.squares, two(sumOf(squares)));
  if (maximum > next.maximum) {
    next.maximum = maximum;
    for (var i = 15u; i < 16; i--) {
      if (x[i / 4][i % 4] == maximum) { next.argmax = i32(place + i / 4 * 4 * WORKGROUP + i % 4); }
    }
  }
  return next;
}

// Adds up the logits themselves, of which the first `count` are in the row.
fn addLogits(swept: Swept, x: vec4f, place: u32, count: u32) -> Swept {
  var next = swept;
  let inside = select(vec4f(0), x, vec4u(0, 1, 2, 3) < vec4u(count));
  next.logits = add(next.logits, add(twoSum(inside.x, inside.y), twoSum(inside.z, inside.w)));
  if (!HAS_CLASSES) { return next; }
  for (var i = 0u; i < min(count, 4); i++) {
    let weight = classWeight(place + i);
    // A logit of weight 0 takes no part, whatever it is.
    if (weight != 0) { next.ofClasses = add(next.ofClasses, twoProduct(weight, x[i])); }
  }
  return next;
}
