// Tiles of 16-bit logits whose vectors may begin in the middle of a word. Four logits that do lie in three words: a thread reads
// the last two of them, and gets the first from the thread before it, so that every word is read once.

// The last words of the vectors of each thread. Two tiles take turns, so that one barrier a tile will do.
var<workgroup> lastWords: array<vec4u, 2 * WORKGROUP>;
var<private> turn: u32;
// The word in which the next tile begins.
var<private> nextWord: u32;

// Of this thread's vectors the two words that are read, and the one before them.
var<private> firstWords: vec4u;
var<private> secondWords: vec4u;
var<private> wordsBefore: vec4u;

// Before the first tile, which begins at this place of the binding.
fn beginTiles(place: u32, thread: u32) {
  if (place % 2 == 1 && thread == 0) { nextWord = wordOfLogits(place / 2); }
}

// Reads the vectors of the tile at `tile` that end before `end`, both from `start` on. All threads of a workgroup come here.
fn readTile(start: u32, tile: u32, end: u32, thread: u32) {
  for (var i = 0u; i < 4; i++) {
    let at = tile + 4 * thread + i * STEP;
    if (at + 4 > end) { break; }
    let word = (start + at + 1) / 2;
    firstWords[i] = wordOfLogits(word);
    secondWords[i] = wordOfLogits(word + 1);
  }
  if (start % 2 == 0) { return; }
  lastWords[turn + thread] = secondWords;
  workgroupBarrier();
  let last = lastWords[turn + WORKGROUP - 1];
  if (thread == 0) {
    wordsBefore = vec4u(nextWord, last.xyz);
  } else {
    wordsBefore = lastWords[turn + thread - 1];
  }
  nextWord = last.w;
  turn = WORKGROUP - turn;
}

// The tile's vector of that number, which begins at that place.
fn vectorOf(place: u32, number: u32) -> vec4f {
  let first = unpackLogits(firstWords[number]);
  let second = unpackLogits(secondWords[number]);
  if (place % 2 == 0) { return vec4f(first, second); }
  return vec4f(unpackLogits(wordsBefore[number]).y, first, second.x);
}
