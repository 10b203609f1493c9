// Where nothing but the sum of exponentials is asked for of each logit but the label's.

// How much larger than its unit, as a power of two, a number may become.
const ROOM = 40;

alias Terms = vec4f;

fn termsOf(x: vec4f, scale: Scale) -> Terms { return valueOf(powersOf(x, scale, params.temperature)); }

fn plus(a: Terms, b: Terms) -> Terms { return a + b; }

fn withTerms(swept: Swept, terms: Terms) -> Swept {
  var next = swept;
  next.sum = addFloat(swept.sum, sumOf(terms));
  return next;
}

fn withMaximum(swept: Swept, x: vec4f, place: u32) -> Swept { return swept; }
