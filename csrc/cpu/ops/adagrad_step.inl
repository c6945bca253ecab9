// AdaGrad: d = +-grad / grad_scale + weight_decay * param; sum += d^2;
// param -= lr * d / (sqrt(sum) + eps), as torch.optim.Adagrad has it.
//
// 5 elements moved per element (3 read, 2 written); arithmetic in the sum type, one rounding to the
// element type at each store.
#pragma once

#include "cpu/ops/adagrad_rule.inl"

namespace {

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
