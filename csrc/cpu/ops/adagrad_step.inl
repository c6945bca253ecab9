// AdaGrad: d = +-grad / grad_scale + weight_decay * param; sum += d^2;
// param -= lr * d / (sqrt(sum) + eps), as torch.optim.Adagrad has it.
//
// 5 elements moved per element (3 read, 2 written); arithmetic in the sum type, one rounding to the
// element type at each store.
#pragma once

namespace {

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

template <class T>
double adagrad(const AdagradChunk& chunk) {
  const double scale = chunk.scalars.grad_scale;
  return update(static_cast<T*>(chunk.param), static_cast<const T*>(chunk.grad),
                static_cast<T*>(chunk.state_sum), chunk.size, chunk.scalars) /
         (scale * scale);
}

}  // namespace

constexpr AdagradLoops adagrad_loops = {
    .step = {adagrad<float>, adagrad<BFloat16>, adagrad<Float16>, adagrad<double>},
};
