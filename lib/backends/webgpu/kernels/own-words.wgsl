// Tiles of logits of which no two threads need the same word.
fn beginTiles(place: u32, thread: u32) {}
fn readTile(start: u32, tile: u32, end: u32, thread: u32) {}
fn vectorOf(place: u32, number: u32) -> vec4f { return loadLogits4(place); }
