// AdaGrad-Norm in two sweeps: the accumulator needs the norm of the whole direction
// d = +-grad / grad_scale + weight_decay * param before the first parameter can move.
//
// squares: 1 element read per element, 2 more from cache with weight decay. scaled_step: 2 read, 1
// written.
#pragma once

#include "cpu/ops/adagrad_rule.inl"

namespace {

template <class T>
Squares squares(const SquaresChunk& chunk) {
  using Vec = VecOf<T>;
  const T* param = static_cast<const T*>(chunk.param);
  const T* grad = static_cast<const T*>(chunk.grad);
  const double scale = chunk.scalars.grad_scale;
  const double sq_norm = add_up<Vec>(chunk.size, [&](std::int64_t i, Vec sum, auto... lanes) {
    const Vec g = Vec::load(grad + i, lanes...);
    return fma(g, g, sum);
  });
  const double unscaled = sq_norm / (scale * scale);
  if (chunk.scalars.weight_decay == 0) return {unscaled, unscaled};
  const Direction<Vec> direction(chunk.scalars);
  return {unscaled, add_up<Vec>(chunk.size, [&](std::int64_t i, Vec sum, auto... lanes) {
            const Vec d = direction(Vec::load(grad + i, lanes...), Vec::load(param + i, lanes...));
            return fma(d, d, sum);
          })};
}

template <class T>
void scaled_step(const ScaledStepChunk& chunk) {
  using Vec = VecOf<T>;
  T* param = static_cast<T*>(chunk.param);
  const T* grad = static_cast<const T*>(chunk.grad);
  const Direction<Vec> direction(chunk.scalars);
  const Vec step = Vec::fill(chunk.step);
  for_each_vector<Vec>(chunk.size, [&](std::int64_t i, auto... lanes) {
    const Vec p = Vec::load(param + i, lanes...);
    (p - step * direction(Vec::load(grad + i, lanes...), p)).store(param + i, lanes...);
  });
}

}  // namespace

constexpr AdagradNormLoops adagrad_norm_loops = {
    .squares = {squares<float>, squares<BFloat16>, squares<Float16>, squares<double>},
    .scaled_step = {scaled_step<float>, scaled_step<BFloat16>, scaled_step<Float16>,
                    scaled_step<double>},
};
