// AdaGrad of many tensors: 20 bytes moved per float32 element (param, grad and sum read, param and
// sum written), 10 of the narrow types; the squared norm of the gradient comes with the same read.
//
// A piece is `piece_chunks` chunks for each thread of a block. Blocks take every gridDim.x-th piece
// and leave one partial sum of the norm each (sum_partials.cuh).
#pragma once

#include "cuda/adagrad_rule.cuh"
#include "cuda/tensor_table.cuh"

namespace adak::cuda {

inline constexpr int piece_chunks = 4;

template <class T>
inline constexpr std::int64_t piece_elements =
    std::int64_t{piece_chunks} * update_threads * Chunk<T>::size;

template <class T>
__global__ void __launch_bounds__(update_threads, 2)
    adagrad_step_kernel(const __grid_constant__ TensorTable<T> tensors,
                        const __grid_constant__ AdagradRule host_rule, float host_scale,
                        const __grid_constant__ DeviceValues values, double* norm_partials) {
  constexpr int size = Chunk<T>::size;
  constexpr std::int64_t span = std::int64_t{update_threads} * size;
  __shared__ double scratch[update_threads / warp_threads];
  const int lane = static_cast<int>(threadIdx.x);
  AdagradRule rule = host_rule;
  rule.lr = values.rate(rule.lr);
  const float scale = values.scale(host_scale);
  const bool skips = values.skips();
  double sq_norm = 0;
  for (int piece = static_cast<int>(blockIdx.x); piece < tensors.pieces();
       piece += static_cast<int>(gridDim.x)) {
    const int t = tensors.tensor_of(piece);
    const std::int64_t start = (piece - tensors.first_pieces[t]) * piece_elements<T>;
    T* const param = tensors.params[t] + start;
    const T* const grad = tensors.grads[t] + start;
    T* const sum = static_cast<T*>(tensors.accumulators[t]) + start;
    const std::int64_t left = tensors.sizes[t] - start;
    const bool aligned = is_aligned(param) && is_aligned(grad) && is_aligned(sum);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < piece_chunks; ++i) {
      const std::int64_t offset = i * span;
      if (offset >= left) break;
      const std::int64_t rest = left - offset;
      float grads[size];
      unscale(load_chunk(grad + offset, rest, lane, update_threads, aligned), scale, grads);
      Chunk<T> params = load_chunk(param + offset, rest, lane, update_threads, aligned);
      Chunk<T> sums = load_chunk(sum + offset, rest, lane, update_threads, aligned);
#pragma unroll
      for (int k = 0; k < size; ++k) squares = fmaf(grads[k], grads[k], squares);
      rule(params, sums, grads);
      if (skips) continue;
      store_chunk(params, param + offset, rest, lane, update_threads, aligned);
      store_chunk(sums, sum + offset, rest, lane, update_threads, aligned);
    }
    sq_norm += static_cast<double>(squares);
  }
  sq_norm = sum_block(sq_norm, scratch, update_threads);
  if (lane == 0) norm_partials[blockIdx.x] = sq_norm;
}

}  // namespace adak::cuda
