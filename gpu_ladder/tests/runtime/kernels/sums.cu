// Two-stage sums: per-block partials by shuffles, then one block; and in one launch, by the block
// that finishes last.
#include "launch.h"

namespace {

constexpr unsigned whole_warp = 0xffffffffu;

__device__ inline float sum_warp(float value) {
  for (int offset = warpSize / 2; offset > 0; offset /= 2)
    value += __shfl_down_sync(whole_warp, value, static_cast<unsigned>(offset));
  return value;
}

// In thread 0; blocks of at most 1024 threads, a multiple of 32.
__device__ inline float sum_block(float value) {
  __shared__ float of_warps[32];
  const unsigned warp = threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  value = sum_warp(value);
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  if (warp == 0) value = sum_warp(lane < blockDim.x / 32 ? of_warps[lane] : 0.0f);
  return value;
}

}  // namespace

__global__ void sum_kernel(const float* values, long long count, float* partials) {
  float sum = 0;
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    sum += values[i];
  sum = sum_block(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

template <bool with_fence>
__global__ void sum_by_last_block_kernel(const float* values, long long count, float* partials,
                                         unsigned* finished, float* total) {
  __shared__ bool is_last;
  float sum = 0;
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    sum += values[i];
  sum = sum_block(sum);
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = sum;
    if constexpr (with_fence) __threadfence();
    is_last = atomicInc(finished, gridDim.x - 1) == gridDim.x - 1;
    if constexpr (with_fence) __threadfence();
  }
  __syncthreads();
  if (!is_last) return;
  float all = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) all += partials[i];
  __syncthreads();
  all = sum_block(all);
  if (threadIdx.x == 0) *total = all;
}

EXPORTED int sum(const float* values, long long count, float* partials, int blocks, float* total) {
  if (const int error = launch(sum_kernel, dim3(static_cast<unsigned>(blocks)), dim3(256), 0,
                               values, count, partials))
    return error;
  return launch(sum_kernel, dim3(1), dim3(256), 0, static_cast<const float*>(partials),
                static_cast<long long>(blocks), total);
}
EXPORTED int sum_by_last_block(const float* values, long long count, float* partials,
                               unsigned* finished, float* total, int blocks, int with_fence) {
  const auto kernel = with_fence ? sum_by_last_block_kernel<true> : sum_by_last_block_kernel<false>;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(64), 0, values, count, partials,
                finished, total);
}
