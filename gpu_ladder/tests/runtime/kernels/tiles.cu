// Shared memory: a transposed tile, static and dynamic, with and without the barrier it needs.
#include "launch.h"

namespace {
constexpr unsigned side = 32;
}

template <bool with_barrier>
__global__ void __launch_bounds__(side* side)
    transpose_kernel(const float* in, float* out, int rows, int columns) {
  __shared__ float tile[side][side + 1];
  const int row = static_cast<int>(blockIdx.y * side + threadIdx.y);
  const int column = static_cast<int>(blockIdx.x * side + threadIdx.x);
  if (row < rows && column < columns)
    tile[threadIdx.y][threadIdx.x] = in[static_cast<long long>(row) * columns + column];
  if constexpr (with_barrier) __syncthreads();
  const int out_row = static_cast<int>(blockIdx.x * side + threadIdx.y);
  const int out_column = static_cast<int>(blockIdx.y * side + threadIdx.x);
  if (out_row < columns && out_column < rows)
    out[static_cast<long long>(out_row) * rows + out_column] = tile[threadIdx.x][threadIdx.y];
}

// Reverses each block's part of the values through dynamic shared memory.
__global__ void reverse_kernel(const float4* in, float4* out) {
  auto* const kept = static_cast<float4*>(gpu_ladder::dynamic_shared());
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  kept[threadIdx.x] = in[at];
  __syncthreads();
  out[at] = kept[blockDim.x - 1 - threadIdx.x];
}

EXPORTED int transpose(const float* in, float* out, int rows, int columns, int with_barrier) {
  const dim3 grid((static_cast<unsigned>(columns) + side - 1) / side,
                  (static_cast<unsigned>(rows) + side - 1) / side);
  const auto kernel = with_barrier ? transpose_kernel<true> : transpose_kernel<false>;
  return launch(kernel, grid, dim3(side, side), 0, in, out, rows, columns);
}
EXPORTED int reverse_parts(const float4* in, float4* out, int blocks, int threads,
                           int shared_bytes) {
  return launch(reverse_kernel, dim3(static_cast<unsigned>(blocks)),
                dim3(static_cast<unsigned>(threads)), static_cast<unsigned>(shared_bytes), in, out);
}
EXPORTED int allow_reverse(int shared_bytes) {
  return cudaFuncSetAttribute(reverse_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              shared_bytes);
}
