// The slopes of a single token's loss wait for stage 4 in the place of its row's values.
fn placeSlopes(slopes: Slopes) -> RowValues {
  let bits = bitcast<i32>(slopes.logProb.y);
  return RowValues(
      slopes.logProb.x, bits, slopes.logSumExp.x, slopes.logSumExp.y, slopes.meanLogit.x, slopes.meanLogit.y);
}

fn slopesAt(place: RowValues) -> Slopes {
  var slopes = Slopes();
  slopes.logProb = TwoFloat(place.base, bitcast<f32>(place.exponents));
  slopes.logSumExp = TwoFloat(place.constant, place.perLog);
  slopes.meanLogit = TwoFloat(place.everywhere, place.atLabel);
  return slopes;
}
