// A tile where nothing but the sum of exponentials is asked for of each logit but the label's.
fn addTile(swept: Swept, x: Tile, place: u32) -> Swept {
  let t = params.temperature;
  var next = withRoom(swept, maximumOfTile(x));
  let first = valueOf(powersOf(x.a, next.unit, t)) + valueOf(powersOf(x.b, next.unit, t));
  let second = valueOf(powersOf(x.c, next.unit, t)) + valueOf(powersOf(x.d, next.unit, t));
  next.sum = add(next.sum, two(sumOf(first + second)));
  return next;
}
