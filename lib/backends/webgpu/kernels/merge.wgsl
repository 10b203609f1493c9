// What two parts of a row come to, in the larger unit.
fn merged(a: Swept, b: Swept) -> Swept {
  var large = a;
  var small = b;
  if (isZero(a.sum) || (!isZero(b.sum) && outgrows(b.unit, a.unit, 0, params.temperature))) {
    large = b;
    small = a;
  }
  return summed(large, rescaled(small, large.unit));
}
