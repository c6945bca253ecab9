// AdaGrad's update of one element: d = +-grad + weight_decay * param, sum += d^2,
// param -= lr * d / (sqrt(sum) + eps), as torch.optim.Adagrad has it. All in float32, with IEEE
// roots and divisions.
#pragma once

#include "cuda/device.cuh"
#include "kernels_cuda.h"

namespace adak::cuda {

struct Direction {
  float sign;
  float weight_decay;

  explicit Direction(const AdagradScalars& scalars)
      : sign(scalars.maximize ? -1.0f : 1.0f),
        weight_decay(static_cast<float>(scalars.weight_decay)) {}
  // Without weight decay the parameter has no part in it, not even one that is not finite.
  __device__ float operator()(float grad, float param) const {
    return weight_decay == 0.0f ? sign * grad : fmaf(weight_decay, param, sign * grad);
  }
};

struct AdagradRule {
  Direction direction;
  float lr;
  float eps;

  explicit AdagradRule(const AdagradScalars& scalars)
      : direction(scalars),
        lr(static_cast<float>(scalars.lr)),
        eps(static_cast<float>(scalars.eps)) {}
  __device__ void operator()(float& param, float& sum, float grad) const {
    const float d = direction(grad, param);
    sum = fmaf(d, d, sum);
    param -= lr * d / (sqrtf(sum) + eps);
  }
  template <class T>
  __device__ void operator()(Chunk<T>& params, Chunk<T>& sums,
                             const float (&grads)[Chunk<T>::size]) const {
#pragma unroll
    for (int k = 0; k < Chunk<T>::size; ++k) {
      float param = to_float(params.elements[k]);
      float sum = to_float(sums.elements[k]);
      (*this)(param, sum, grads[k]);
      params.elements[k] = from_float<T>(param);
      sums.elements[k] = from_float<T>(sum);
    }
  }
};

}  // namespace adak::cuda
