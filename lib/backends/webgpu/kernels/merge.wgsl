// What two parts of a row come to.
fn merged(a: Swept, b: Swept) -> Swept {
  if (isZero(a.sum) || (!isZero(b.sum) && outgrows(b.unit, a.unit, 0, params.temperature))) {
    return summed(rescaled(a, b.unit), b);
  }
  return summed(a, rescaled(b, a.unit));
}
