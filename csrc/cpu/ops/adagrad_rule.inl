// The rule of AdaGrad: the direction of a step, and a step along a gradient or a mean of gradients.
#pragma once

namespace {

// The direction of an AdaGrad step, d = +-grad / grad_scale + weight_decay * param.
template <class Vec>
struct Direction {
  Vec scale;  // of the gradient, with its sign
  Vec weight_decay;

  explicit Direction(const AdagradScalars& s)
      : scale(Vec::fill((s.maximize ? -1.0 : 1.0) / s.grad_scale)),
        weight_decay(Vec::fill(s.weight_decay)) {}
  Vec operator()(Vec grad, Vec param) const { return fma(weight_decay, param, scale * grad); }
};

// Updates `size` parameters of type T along gradients of type G; returns the sum of grad^2.
template <class T, class G>
inline double update(T* param, const G* grad, T* state_sum, std::int64_t size,
                     const AdagradScalars& scalars) {
  using Vec = VecOf<T>;
  const Direction<Vec> direction(scalars);
  const Vec lr = Vec::fill(scalars.lr);
  const Vec eps = Vec::fill(scalars.eps);
  return add_up<Vec>(size, [&](std::int64_t i, Vec sq_norm, auto... lanes) {
    const Vec g = Vec::load(grad + i, lanes...);
    const Vec p = Vec::load(param + i, lanes...);
    const Vec d = direction(g, p);
    const Vec total = fma(d, d, Vec::load(state_sum + i, lanes...));
    (p - lr * d / (sqrt(total) + eps)).store(param + i, lanes...);
    total.store(state_sum + i, lanes...);
    return fma(g, g, sq_norm);
  });
}

}  // namespace
