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

// Of two parts of a row in the same unit.
fn summed(a: Swept, b: Swept) -> Swept {
  var sum = a;
  sum.sum = add(a.sum, b.sum);
  sum.weighted = add(a.weighted, b.weighted);
  sum.squares = add(a.squares, b.squares);
  if (b.maximum > a.maximum || (b.maximum == a.maximum && u32(b.argmax) < u32(a.argmax))) {
    sum.maximum = b.maximum;
    sum.argmax = b.argmax;
  }
  sum.logits = add(a.logits, b.logits);
  sum.ofClasses = add(a.ofClasses, b.ofClasses);
  return sum;
}

struct Terms {
  sum: vec4f,
  weighted: vec4f,
  squares: vec4f,
}

fn plus(terms: Terms, x: vec4f, unit: Unit) -> Terms {
  let powers = powersOf(x, unit, params.temperature);
  let value = valueOf(powers);
  let log = vec4f(powers.power) * LN2.x + powers.rest;
  return Terms(terms.sum + value, terms.weighted + value * log, terms.squares + value * value);
}

// The first place of a number in four logits, where they are at `place`; `found` where it is not among them.
fn placeIn(x: vec4f, number: f32, place: u32, found: u32) -> u32 {
  let same = x == vec4f(number);
  return select(select(select(select(found, place + 3, same.w), place + 2, same.z), place + 1, same.y), place, same.x);
}

fn placeOf(x: Tile, number: f32, place: u32) -> u32 {
  const STEP = 4 * WORKGROUP;
  let last = placeIn(x.c, number, place + 2 * STEP, placeIn(x.d, number, place + 3 * STEP, place));
  return placeIn(x.a, number, place, placeIn(x.b, number, place + STEP, last));
}

fn addTile(swept: Swept, x: Tile, place: u32) -> Swept {
  let maximum = maximumOfTile(x);
  var next = withRoom(swept, maximum);
  var terms = Terms(vec4f(0), vec4f(0), vec4f(0));
  terms = plus(plus(plus(plus(terms, x.a, next.unit), x.b, next.unit), x.c, next.unit), x.d, next.unit);
  next.sum = add(next.sum, two(sumOf(terms.sum)));
  next.weighted = add(next.weighted, two(sumOf(terms.weighted)));
  next.squares = add(next.squares, two(sumOf(terms.squares)));
  if (maximum > next.maximum) {
    next.maximum = maximum;
    next.argmax = i32(placeOf(x, maximum, place));
  }
  return next;
}

// The sums of the logits themselves, the label with them.
var<private> noted: TwoFloat;
var<private> notedOfClasses: TwoFloat;

fn noteLogits(x: vec4f, place: u32, count: u32) {
  noted = add(noted, sumOfInside(x, count));
  if (!HAS_CLASSES) { return; }
  for (var i = 0u; i < min(count, 4); i++) { notedOfClasses = add(notedOfClasses, ofClass(x[i], place + i)); }
}

fn withNotes(swept: Swept) -> Swept {
  var next = swept;
  next.logits = noted;
  next.ofClasses = notedOfClasses;
  return next;
}
