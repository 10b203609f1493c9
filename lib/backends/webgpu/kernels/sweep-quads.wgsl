// Whole tiles, vector by vector: what software takes least time for, as it keeps few numbers and takes all branches of a
// loop's body. So the unit changes outside of the inner loop.
fn sweepTiles(first: Swept, start: u32, begin: u32, whole: u32, end: u32, label: u32, thread: u32) -> Swept {
  var swept = first;
  var at = begin + 4 * thread;
  if (at >= whole) { return swept; }
  var x = quadOf(start, at, label, 0);
  loop {
    let maximum = maximumOf(x);
    swept = withRoom(swept, maximum);
    let scale = scaleFor(swept.unit, params.temperature);
    let limit = limitOf(swept, maximum);
    loop {
      swept = plusQuad(swept, x, at, scale);
      at += STEP;
      if (at >= whole) { break; }
      x = quadOf(start, at, label, 0);
      if (any(x > vec4f(limit))) { break; }
    }
    if (at >= whole) { break; }
  }
  return swept;
}

// The largest logit that fits the unit; -∞ where none has counted yet.
fn limitOf(swept: Swept, maximum: f32) -> f32 {
  if (isZero(swept.sum) && isMinusInfinity(maximum)) { return -infinity(); }
  return swept.unit.base + f32(swept.unit.exponent + ROOM) / params.temperature.log2e;
}
