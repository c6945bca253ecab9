// v = max(0, v - c grad^2) in place: a sum of squares becomes one of squared deviations.
//
// Two reads and a write, in the sum type. Where a sample's contribution is one product x y' the
// squares come out of a matrix product, and deviations cannot.
#pragma once

namespace {

template <class Vec>
void subtract_square(const SubtractSquare& r) {
  using Lane = typename Vec::Lane;
  const Lane* grad = static_cast<const Lane*>(r.grad);
  Lane* squares = static_cast<Lane*>(r.squares);
  const Vec scale = Vec::fill(-r.scale);
  for_each_vector<Vec>(r.size, [&](std::int64_t i, auto... lanes) {
    const Vec mean = Vec::load(grad + i, lanes...);
    const Vec spread = fma(mean * scale, mean, Vec::load(squares + i, lanes...));
    not_negative(spread).store(squares + i, lanes...);
  });
}

}  // namespace

constexpr SubtractSquareLoops subtract_square_loops = {
    .run = {subtract_square<VecFloat>, nullptr, nullptr, subtract_square<VecDouble>}};
