// out[r] = sum over p of partials[p, r]: the second stage of every reduction.
//
// Blocks leave one double each instead of adding to a common one, so that the order of the sum, and
// with it every bit, is the same in every run. A block of 32 x 32 threads takes 32 numbers r; 32
// slices of the partials are summed side by side and then in the slices' order.
#pragma once

#include "cuda/device.cuh"

namespace adak::cuda {

inline constexpr int sum_slices = 32;
inline constexpr int sum_threads = sum_slices * warp_threads;

__global__ void __launch_bounds__(sum_threads)
    sum_partials_kernel(const double* partials,  // [parts, numbers]
                        std::int64_t parts, std::int64_t numbers, double* out) {
  __shared__ double sums[sum_slices][warp_threads];
  const int lane = static_cast<int>(threadIdx.x) % warp_threads;
  const int slice = static_cast<int>(threadIdx.x) / warp_threads;
  const std::int64_t number = static_cast<std::int64_t>(blockIdx.x) * warp_threads + lane;
  double sum = 0;
  if (number < numbers)
    for (std::int64_t part = slice; part < parts; part += sum_slices)
      sum += partials[part * numbers + number];
  sums[slice][lane] = sum;
  __syncthreads();
  if (slice != 0 || number >= numbers) return;
  double total = 0;
#pragma unroll
  for (int s = 0; s < sum_slices; ++s) total += sums[s][lane];
  out[number] = total;
}

}  // namespace adak::cuda
