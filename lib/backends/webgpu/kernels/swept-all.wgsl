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

// How much larger than its unit, as a power of two, a number may become: its logarithm takes digits of `weighted`.
const ROOM = 4;

struct Terms {
  sum: vec4f,
  weighted: vec4f,
  squares: vec4f,
}

fn termsOf(x: vec4f, scale: Scale) -> Terms {
  let powers = powersOf(x, scale, params.temperature);
  let value = valueOf(powers);
  return Terms(value, value * (powers.power * LN2.x + powers.rest), value * value);
}

fn plus(a: Terms, b: Terms) -> Terms { return Terms(a.sum + b.sum, a.weighted + b.weighted, a.squares + b.squares); }

fn withTerms(swept: Swept, terms: Terms) -> Swept {
  var next = swept;
  next.sum = addFloat(swept.sum, sumOf(terms.sum));
  next.weighted = addFloat(swept.weighted, sumOf(terms.weighted));
  next.squares = addFloat(swept.squares, sumOf(terms.squares));
  return next;
}

// The first place of a number that is among these four logits.
fn placeIn(x: vec4f, number: f32, place: u32) -> u32 {
  let same = x == vec4f(number);
  return select(select(select(place + 3, place + 2, same.z), place + 1, same.y), place, same.x);
}

fn withMaximum(swept: Swept, x: vec4f, place: u32) -> Swept {
  let maximum = maximumOf(x);
  if (maximum <= swept.maximum) { return swept; }
  var next = swept;
  next.maximum = maximum;
  next.argmax = i32(placeIn(x, maximum, place));
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
