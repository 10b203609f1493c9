// The sum of the first `count` of four logits.
fn sumOfInside(x: vec4f, count: u32) -> TwoFloat {
  let inside = select(vec4f(0), x, vec4u(0, 1, 2, 3) < vec4u(count));
  return add(twoSum(inside.x, inside.y), twoSum(inside.z, inside.w));
}

// A logit times the weight of its class: one of weight 0 takes no part, whatever it is.
fn ofClass(x: f32, place: u32) -> TwoFloat {
  let weight = classWeight(place);
  return select(two(0), twoProduct(weight, x), weight != 0);
}
