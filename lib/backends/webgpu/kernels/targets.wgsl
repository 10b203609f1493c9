// Stage 0, for labels that are on the device: what each row predicts and how many rows of a sequence do, as lib/call/tokens.ts
// finds it for labels of the host's. A sequence is a workgroup's.
struct Params {
  zero: u32,
  sequenceCount: u32,
  vocab: u32,
  shift: u32,
  ignoreLow: i32,  // the words of ignoreIndex
  ignoreHigh: i32,
  labelsBegin: u32,  // elements of what is bound before the first label,
  maskBegin: u32,    // and before the first of the mask, which has bytes or words
}

// How many labels of a sequence are out of range, and the place of the first of them.
struct Invalid {
  count: u32,
  first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> offsets: array<u32>;  // [S + 1]
@group(0) @binding(2) var<storage, read> labels: array<i32>;
@group(0) @binding(3) var<storage, read> mask: array<u32>;
@group(0) @binding(4) var<storage, read_write> targets: array<i32>;
@group(0) @binding(5) var<storage, read_write> sequences: array<Sequence>;  // [S + 1]
@group(0) @binding(6) var<storage, read_write> invalid: array<Invalid>;  // [S]

var<workgroup> counts: array<u32, WORKGROUP>;
var<workgroup> wrong: array<Invalid, WORKGROUP>;

fn isMasked(at: u32) -> bool {
  let place = params.maskBegin + at;
  if (MASK == WORDS) { return mask[place] == 0; }
  if (MASK == BYTES) { return ((mask[place / 4] >> (place % 4 * 8)) & 0xff) == 0; }
  return false;
}

// INACTIVE and INVALID where there is none.
fn targetAt(at: u32) -> i32 {
  if (isMasked(at)) { return INACTIVE; }
  let place = params.labelsBegin + at;
  var low: i32;
  var high: i32;
  if (WIDE) {
    low = labels[2 * place];
    high = labels[2 * place + 1];
  } else {
    low = labels[place];
    high = low >> 31;
  }
  if (low == params.ignoreLow && high == params.ignoreHigh) { return INACTIVE; }
  if (high != 0 || low < 0 || u32(low) >= params.vocab) { return INVALID; }
  return low;
}

@compute @workgroup_size(WORKGROUP)
fn findTargets(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  let s = workgroupIndex(group, groups);
  if (s >= params.sequenceCount) { return; }
  let end = offsets[s + 1];
  var count = 0u;
  var found = Invalid(0, 0xffffffff);
  for (var at = offsets[s] + thread; at < end; at += WORKGROUP) {
    let word = targetAt(at);
    if (word == INVALID) {
      found.count++;
      found.first = min(found.first, at);
    }
    // The first label of a sequence has no row where they are shifted, and the last row no label.
    if (at >= offsets[s] + params.shift) {
      targets[at - params.shift] = word;
      if (word >= 0) { count++; }
    }
    if (at + params.shift >= end) { targets[at] = select(word, INACTIVE, params.shift == 1); }
  }
  counts[thread] = count;
  wrong[thread] = found;
  for (var step = WORKGROUP / 2; step > 0; step /= 2) {
    workgroupBarrier();
    if (thread < step) {
      counts[thread] += counts[thread + step];
      wrong[thread].count += wrong[thread + step].count;
      wrong[thread].first = min(wrong[thread].first, wrong[thread + step].first);
    }
  }
  if (thread != 0) { return; }
  sequences[s] = Sequence(offsets[s], i32(counts[0]));
  if (s + 1 == params.sequenceCount) { sequences[s + 1] = Sequence(end, 0); }
  invalid[s] = wrong[0];
}
