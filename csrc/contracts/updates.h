// AdaGrad's and AdaGrad-Norm's steps of lists of tensors.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

struct UpdateArgs {
  const UpdatedTensor* tensors;
  std::int64_t count;
  AdagradScalars scalars;
  double* workspace;  // update_workspace() doubles
  int threads;
};
std::int64_t update_workspace(const UpdateArgs& args);

// Both return the squared norm of grad / grad_scale over all tensors.
double adagrad_step(const UpdateArgs& args);
// `shared` is the one accumulator of all tensors; null: one for each row of each tensor.
double adagrad_norm_step(const UpdateArgs& args, double* shared);

// What an instruction set provides.

// An AdaGrad update of `size` elements; returns the squared norm of grad / grad_scale.
struct AdagradChunk {
  void* param;
  const void* grad;
  void* state_sum;
  std::int64_t size;
  AdagradScalars scalars;
};

struct AdagradLoops {
  double (*step[element_types])(const AdagradChunk&);
};
ADAK_LOOPS(AdagradLoops, adagrad_loops)

// Sums of squares of `size` elements: of the gradient, and of the direction d.
struct SquaresChunk {
  const void* param;
  const void* grad;
  std::int64_t size;
  AdagradScalars scalars;
};
struct Squares {
  double grad;
  double direction;
};

// param -= step * d for `size` elements.
struct ScaledStepChunk {
  void* param;
  const void* grad;
  std::int64_t size;
  double step;
  AdagradScalars scalars;
};

struct AdagradNormLoops {
  Squares (*squares[element_types])(const SquaresChunk&);
  void (*scaled_step[element_types])(const ScaledStepChunk&);
};
ADAK_LOOPS(AdagradNormLoops, adagrad_norm_loops)

}  // namespace cpu

namespace cuda {

struct UpdateArgs {
  const UpdatedTensor* tensors;  // itself on the host
  std::int64_t count;
  AdagradScalars scalars;
  DeviceScalars device_scalars;
  double* sq_norm;  // [1]: the squared norm of grad / grad_scale over all tensors
};
void adagrad_step(const UpdateArgs& args, const Stream& stream, const Allocate& allocate);
// `shared` is the one accumulator of all tensors; null: one for each row of each tensor.
void adagrad_norm_step(const UpdateArgs& args, double* shared, const Stream& stream,
                       const Allocate& allocate);

}  // namespace cuda
}  // namespace adak
