// Whole tiles, each of which is read before it is added up, so that a thread waits for memory once for four vectors.
fn sweepTiles(first: Swept, start: u32, begin: u32, whole: u32, end: u32, label: u32, thread: u32) -> Swept {
  var swept = first;
  for (var tile = begin; tile < whole; tile += TILE) {
    readTile(start, tile, end, thread);
    let at = tile + 4 * thread;
    let a = quadOf(start, at, label, 0);
    let b = quadOf(start, at + STEP, label, 1);
    let c = quadOf(start, at + 2 * STEP, label, 2);
    let d = quadOf(start, at + 3 * STEP, label, 3);
    swept = withRoom(swept, maximumOf(max(max(a, b), max(c, d))));
    let scale = scaleFor(swept.unit, params.temperature);
    swept = withMaximum(withMaximum(swept, a, at), b, at + STEP);
    swept = withMaximum(withMaximum(swept, c, at + 2 * STEP), d, at + 3 * STEP);
    let terms = plus(plus(termsOf(a, scale), termsOf(b, scale)), plus(termsOf(c, scale), termsOf(d, scale)));
    swept = withTerms(swept, terms);
  }
  return swept;
}
