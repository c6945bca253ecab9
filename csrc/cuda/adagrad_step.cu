// AdaGrad of many tensors: 20 bytes moved per float32 element (param, grad and sum read, param and
// sum written), 10 of the narrow types; the squared norm of the gradient comes with the same read.
//
// A piece is `piece_chunks` chunks for each thread of a block. Blocks take every gridDim.x-th piece
// and leave one partial sum of the norm each (sum_partials.cuh).
#include "contracts/updates.h"
#include "cuda/adagrad_rule.cuh"
#include "cuda/sum_partials.h"
#include "cuda/tensor_table.cuh"
#include "cuda/tensor_tables.h"

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

// The launches: one for every table of tensors, and the norm's sum.
namespace {

template <class T>
Tables<T> tables(const UpdateArgs& args, ElementType type, const Call& call) {
  return Tables<T>(args, type, call, adagrad_step_kernel<T>, [](const UpdatedTensor& tensor) {
    return divide_up(tensor.size, piece_elements<T>);
  });
}

template <class T>
void launch(const Tables<T>& tables, const UpdateArgs& args, const Call& call, double* partials,
            std::int64_t before) {
  tables.for_each(before, [&](const TensorTable<T>& table, int count, std::int64_t first) {
    call.launch(adagrad_step_kernel<T>, blocks(count), update_threads, 0, table,
                AdagradRule(args.scalars), static_cast<float>(args.scalars.grad_scale),
                device_values(args.device_scalars), partials + first);
  });
}

}  // namespace

void adagrad_step(const UpdateArgs& args, const Stream& stream, const Allocate& allocate) {
  constexpr const char* op = "adagrad_step_";
  const Call call(op, stream);
  refuse_float64(op, args);
  const auto singles = tables<float>(args, ElementType::float32, call);
  const auto bfloats = tables<__nv_bfloat16>(args, ElementType::bfloat16, call);
  const auto halves = tables<__half>(args, ElementType::float16, call);
  const std::int64_t parts = singles.blocks() + bfloats.blocks() + halves.blocks();
  auto* const partials = static_cast<double*>(allocate(std::max<std::int64_t>(parts, 1) * 8));
  launch(singles, args, call, partials, 0);
  launch(bfloats, args, call, partials, singles.blocks());
  launch(halves, args, call, partials, singles.blocks() + bfloats.blocks());
  sum_partials(call, partials, parts, 1, args.sq_norm);
}

}  // namespace adak::cuda
