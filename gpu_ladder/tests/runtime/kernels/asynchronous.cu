// A ring of asynchronous copies, right and wrong: each thread adds up its column of `in`.
#include <cuda_pipeline_primitives.h>

#include "launch.h"

namespace {

constexpr int threads = 64;

enum Fault { none, no_wait, late_wait, early_copy, others_copy };

template <Fault fault>
__global__ void ring_kernel(const float4* in, float4* out, int rows) {
  constexpr int ahead = 2;
  constexpr int slots = fault == early_copy ? ahead : ahead + 1;
  __shared__ float4 ring[slots][threads];
  const int thread = static_cast<int>(threadIdx.x);
  const auto ask = [&](int row) {
    if (row < rows)
      __pipeline_memcpy_async(&ring[row % slots][thread], in + row * threads + thread,
                              sizeof(float4), row == rows - 1 ? 4 : 0);
    __pipeline_commit();
  };
  for (int row = 0; row < ahead; ++row) ask(row);
  float4 sum = make_float4(0, 0, 0, 0);
  for (int row = 0; row < rows; ++row) {
    ask(row + ahead);
    if (fault != no_wait) __pipeline_wait_prior(fault == late_wait ? ahead + 1 : ahead);
    const float4 value = ring[row % slots][fault == others_copy ? thread ^ 1 : thread];
    sum = make_float4(sum.x + value.x, sum.y + value.y, sum.z + value.z, sum.w + value.w);
  }
  out[thread] = sum;
}

__global__ void misplaced_copy_kernel(const float* in, float* out, int first, int bytes) {
  __shared__ float4 there[1];
  __pipeline_memcpy_async(there, in + first, static_cast<std::size_t>(bytes));
  __pipeline_commit();
  __pipeline_wait_prior(0);
  *out = there[0].x;
}

}  // namespace

EXPORTED int ring(const float4* in, float4* out, int rows, int fault) {
  const auto kernel = fault == no_wait       ? ring_kernel<no_wait>
                      : fault == late_wait   ? ring_kernel<late_wait>
                      : fault == early_copy  ? ring_kernel<early_copy>
                      : fault == others_copy ? ring_kernel<others_copy>
                                             : ring_kernel<none>;
  return launch(kernel, dim3(1), dim3(threads), 0, in, out, rows);
}
EXPORTED int misplaced_copy(const float* in, float* out, int first, int bytes) {
  return launch(misplaced_copy_kernel, dim3(1), dim3(1), 0, in, out, first, bytes);
}
