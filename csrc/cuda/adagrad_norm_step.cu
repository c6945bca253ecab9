// AdaGrad-Norm of many tensors: d = +-grad / scale + weight_decay * param, v += |d|^2,
// param -= lr * d / (sqrt(v) + eps), with one v in all or one for each row.
//
// One v: norm_kernel leaves two partial sums per block, |d|^2 and |grad|^2 (4 bytes read per
// float32 element, 8 with weight decay), accumulate_kernel adds them to v and divides, and
// scaled_step_kernel moves the parameters (12 bytes per element). Rows: row_step_kernel reads a row
// twice: 12 bytes per element while the rows in flight fit in the second-level cache, and up to 20
// beyond, which rows of some thousand elements reach.
#include "contracts/updates.h"
#include "cuda/adagrad_rule.cuh"
#include "cuda/sum_partials.h"
#include "cuda/tensor_table.cuh"
#include "cuda/tensor_tables.h"

namespace adak::cuda {

// Elements of a piece where one accumulator is shared.
template <class T>
inline constexpr std::int64_t norm_piece_elements =
    std::int64_t{4} * update_threads * Chunk<T>::size;

// This thread's chunks of a piece, in turn; body(chunk of params, grads unscaled, offset, rest).
template <class T, class Body>
__device__ inline void for_each_chunk(const TensorTable<T>& tensors, int piece, float scale,
                                      bool needs_params, Body&& body) {
  constexpr int size = Chunk<T>::size;
  constexpr std::int64_t span = std::int64_t{update_threads} * size;
  const int lane = static_cast<int>(threadIdx.x);
  const int t = tensors.tensor_of(piece);
  const std::int64_t start = (piece - tensors.first_pieces[t]) * norm_piece_elements<T>;
  T* const param = tensors.params[t] + start;
  const T* const grad = tensors.grads[t] + start;
  const std::int64_t left = tensors.sizes[t] - start;
  const bool aligned = is_aligned(param) && is_aligned(grad);
#pragma unroll
  for (std::int64_t offset = 0; offset < norm_piece_elements<T>; offset += span) {
    if (offset >= left) break;
    const std::int64_t rest = left - offset;
    float grads[size];
    unscale(load_chunk(grad + offset, rest, lane, update_threads, aligned), scale, grads);
    Chunk<T> params = Chunk<T>::zero();
    if (needs_params) params = load_chunk(param + offset, rest, lane, update_threads, aligned);
    body(params, grads, param + offset, rest, aligned);
  }
}

template <class T>
__global__ void __launch_bounds__(update_threads)
    norm_kernel(const __grid_constant__ TensorTable<T> tensors,
                const __grid_constant__ Direction direction, float host_scale,
                const __grid_constant__ DeviceValues values,
                double* partials) {  // [blocks, 2]
  constexpr int size = Chunk<T>::size;
  __shared__ double scratch[update_threads / warp_threads];
  const float scale = values.scale(host_scale);
  double of_directions = 0;
  double of_grads = 0;
  for (int piece = static_cast<int>(blockIdx.x); piece < tensors.pieces();
       piece += static_cast<int>(gridDim.x)) {
    float squares = 0;
    float own = 0;
    for_each_chunk(tensors, piece, scale, direction.weight_decay != 0.0f,
                   [&](const Chunk<T>& params, const float (&grads)[size], T*, std::int64_t, bool) {
#pragma unroll
                     for (int k = 0; k < size; ++k) {
                       const float d = direction(grads[k], to_float(params.elements[k]));
                       squares = fmaf(d, d, squares);
                       own = fmaf(grads[k], grads[k], own);
                     }
                   });
    of_directions += static_cast<double>(squares);
    of_grads += static_cast<double>(own);
  }
  of_directions = sum_block(of_directions, scratch, update_threads);
  of_grads = sum_block(of_grads, scratch, update_threads);
  if (threadIdx.x != 0) return;
  partials[2 * blockIdx.x] = of_directions;
  partials[2 * blockIdx.x + 1] = of_grads;
}

// v += |d|^2 and step = lr / (sqrt(v) + eps), in float64, by one thread.
__global__ void accumulate_kernel(const double* sums,  // |d|^2, |grad|^2
                                  double lr, double eps,
                                  const __grid_constant__ DeviceValues values, double* accumulator,
                                  double* sq_norm, float* step) {
  *sq_norm = sums[1];
  const double total = *accumulator + sums[0];
  const double rate = values.lr ? *values.lr : lr;
  *step = static_cast<float>(rate / (sqrt(total) + eps));
  if (!values.skips()) *accumulator = total;
}

template <class T>
__global__ void __launch_bounds__(update_threads)
    scaled_step_kernel(const __grid_constant__ TensorTable<T> tensors,
                       const __grid_constant__ Direction direction, float host_scale,
                       const __grid_constant__ DeviceValues values, const float* device_step) {
  constexpr int size = Chunk<T>::size;
  if (values.skips()) return;
  const float scale = values.scale(host_scale);
  const float step = *device_step;
  const int lane = static_cast<int>(threadIdx.x);
  for (int piece = static_cast<int>(blockIdx.x); piece < tensors.pieces();
       piece += static_cast<int>(gridDim.x))
    for_each_chunk(tensors, piece, scale, true,
                   [&](Chunk<T>& params, const float (&grads)[size], T* span, std::int64_t rest,
                       bool aligned) {
#pragma unroll
                     for (int k = 0; k < size; ++k) {
                       const float param = to_float(params.elements[k]);
                       params.elements[k] =
                           from_float<T>(param - step * direction(grads[k], param));
                     }
                     store_chunk(params, span, rest, lane, update_threads, aligned);
                   });
}

// How many threads of a block share a row: one where rows are so short that they would idle, a
// warp, or the whole block.
__host__ __device__ inline int threads_per_row(std::int64_t row_size) {
  return row_size <= 4 ? 1 : row_size <= 2048 ? warp_threads : update_threads;
}

// Rows of a table's tensors: a piece is as many as a block's threads take at once.
template <class T>
__global__ void __launch_bounds__(update_threads)
    row_step_kernel(const __grid_constant__ TensorTable<T> tensors,
                    const __grid_constant__ Direction direction, double lr, double eps,
                    float host_scale, const __grid_constant__ DeviceValues values,
                    double* norm_partials) {
  constexpr int size = Chunk<T>::size;
  __shared__ double scratch[update_threads / warp_threads];
  __shared__ double shared_sum;
  const float scale = values.scale(host_scale);
  const double rate = values.lr ? *values.lr : lr;
  const bool skips = values.skips();
  double of_grads = 0;
  for (int piece = static_cast<int>(blockIdx.x); piece < tensors.pieces();
       piece += static_cast<int>(gridDim.x)) {
    const int t = tensors.tensor_of(piece);
    const std::int64_t rows = tensors.rows[t];
    const std::int64_t row_size = tensors.sizes[t] / rows;
    const int lanes = threads_per_row(row_size);
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    const std::int64_t row =
        (piece - tensors.first_pieces[t]) * static_cast<std::int64_t>(update_threads / lanes) +
        static_cast<int>(threadIdx.x) / lanes;
    const bool exists = row < rows;
    T* const param = tensors.params[t] + (exists ? row * row_size : 0);
    const T* const grad = tensors.grads[t] + (exists ? row * row_size : 0);
    const std::int64_t length = exists ? row_size : 0;
    const bool aligned = is_aligned(param) && is_aligned(grad);
    const std::int64_t span = static_cast<std::int64_t>(lanes) * size;
    double of_direction = 0;
    for (std::int64_t offset = 0; offset < length; offset += span) {
      float grads[size];
      unscale(load_chunk(grad + offset, length - offset, lane, lanes, aligned), scale, grads);
      const Chunk<T> params = load_chunk(param + offset, length - offset, lane, lanes, aligned);
      float squares = 0;
      float own = 0;
#pragma unroll
      for (int k = 0; k < size; ++k) {
        const float d = direction(grads[k], to_float(params.elements[k]));
        squares = fmaf(d, d, squares);
        own = fmaf(grads[k], grads[k], own);
      }
      of_direction += static_cast<double>(squares);
      of_grads += static_cast<double>(own);
    }
    if (lanes == warp_threads) of_direction = sum_lanes(of_direction, warp_threads);
    if (lanes == update_threads) {
      const double sum = sum_block(of_direction, scratch, update_threads);
      if (threadIdx.x == 0) shared_sum = sum;
      __syncthreads();
      of_direction = shared_sum;
      __syncthreads();
    }
    if (skips || !exists) continue;
    double* const accumulator = static_cast<double*>(tensors.accumulators[t]) + row;
    const double total = *accumulator + of_direction;
    const float step = static_cast<float>(rate / (sqrt(total) + eps));
    if (lanes != 1 && lanes != update_threads) __syncwarp();
    if (lanes == update_threads) __syncthreads();
    if (lane == 0) *accumulator = total;
    for (std::int64_t offset = 0; offset < length; offset += span) {
      const std::int64_t rest = length - offset;
      float grads[size];
      unscale(load_chunk(grad + offset, rest, lane, lanes, aligned), scale, grads);
      Chunk<T> params = load_chunk(param + offset, rest, lane, lanes, aligned);
#pragma unroll
      for (int k = 0; k < size; ++k) {
        const float value = to_float(params.elements[k]);
        params.elements[k] = from_float<T>(value - step * direction(grads[k], value));
      }
      store_chunk(params, param + offset, rest, lane, lanes, aligned);
    }
  }
  of_grads = sum_block(of_grads, scratch, update_threads);
  if (threadIdx.x == 0) norm_partials[blockIdx.x] = of_grads;
}

// The launches, over tables of tensors.
namespace {

constexpr const char* op = "adagrad_norm_step_";

// What the launches of one call share.
struct Step {
  const UpdateArgs& args;
  const Call& call;
  const Allocate& allocate;
  Direction direction{args.scalars};
  float scale = static_cast<float>(args.scalars.grad_scale);
  DeviceValues values = device_values(args.device_scalars);

  double* doubles(std::int64_t count) const {
    return static_cast<double*>(allocate(std::max<std::int64_t>(count, 1) * 8));
  }
};

template <class T>
Tables<T> tables(const Step& step, ElementType type) {
  return Tables<T>(step.args, type, step.call, norm_kernel<T>, [](const UpdatedTensor& tensor) {
    return divide_up(tensor.size, norm_piece_elements<T>);
  });
}

template <class T>
void launch_norms(const Step& step, const Tables<T>& tables, std::int64_t before,
                  double* partials) {
  tables.for_each(before, [&](const TensorTable<T>& table, int count, std::int64_t first) {
    step.call.launch(norm_kernel<T>, blocks(count), update_threads, 0, table, step.direction,
                     step.scale, step.values, partials + 2 * first);
  });
}

template <class T>
void launch_scaled_steps(const Step& step, const Tables<T>& tables, const float* size) {
  tables.for_each(0, [&](const TensorTable<T>& table, int count, std::int64_t) {
    step.call.launch(scaled_step_kernel<T>, blocks(count), update_threads, 0, table, step.direction,
                     step.scale, step.values, size);
  });
}

void shared_step(const Step& step, double* accumulator) {
  const auto singles = tables<float>(step, ElementType::float32);
  const auto bfloats = tables<__nv_bfloat16>(step, ElementType::bfloat16);
  const auto halves = tables<__half>(step, ElementType::float16);
  const std::int64_t parts = singles.blocks() + bfloats.blocks() + halves.blocks();
  // Partial sums, then their two totals, then the size of the step in half a double.
  double* const partials = step.doubles(2 * parts + 3);
  double* const sums = partials + 2 * parts;
  auto* const size = reinterpret_cast<float*>(sums + 2);
  launch_norms(step, singles, 0, partials);
  launch_norms(step, bfloats, singles.blocks(), partials);
  launch_norms(step, halves, singles.blocks() + bfloats.blocks(), partials);
  sum_partials(step.call, partials, parts, 2, sums);
  step.call.launch(accumulate_kernel, blocks(1), 1, 0, static_cast<const double*>(sums),
                   step.args.scalars.lr, step.args.scalars.eps, step.values, accumulator,
                   step.args.sq_norm, size);
  launch_scaled_steps(step, singles, size);
  launch_scaled_steps(step, bfloats, size);
  launch_scaled_steps(step, halves, size);
}

template <class T>
Tables<T> row_tables(const Step& step, ElementType type) {
  return Tables<T>(step.args, type, step.call, row_step_kernel<T>, [](const UpdatedTensor& tensor) {
    if (tensor.size == 0) return std::int64_t{0};
    return divide_up(tensor.rows, update_threads / threads_per_row(tensor.size / tensor.rows));
  });
}

template <class T>
void launch_rows(const Step& step, const Tables<T>& tables, std::int64_t before, double* partials) {
  tables.for_each(before, [&](const TensorTable<T>& table, int count, std::int64_t first) {
    step.call.launch(row_step_kernel<T>, blocks(count), update_threads, 0, table, step.direction,
                     step.args.scalars.lr, step.args.scalars.eps, step.scale, step.values,
                     partials + first);
  });
}

void row_step(const Step& step) {
  const auto singles = row_tables<float>(step, ElementType::float32);
  const auto bfloats = row_tables<__nv_bfloat16>(step, ElementType::bfloat16);
  const auto halves = row_tables<__half>(step, ElementType::float16);
  const std::int64_t parts = singles.blocks() + bfloats.blocks() + halves.blocks();
  double* const partials = step.doubles(parts);
  launch_rows(step, singles, 0, partials);
  launch_rows(step, bfloats, singles.blocks(), partials);
  launch_rows(step, halves, singles.blocks() + bfloats.blocks(), partials);
  sum_partials(step.call, partials, parts, 1, step.args.sq_norm);
}

}  // namespace

void adagrad_norm_step(const UpdateArgs& args, double* shared, const Stream& stream,
                       const Allocate& allocate) {
  const Call call(op, stream);
  refuse_float64(op, args);
  const Step step{args, call, allocate};
  if (shared)
    shared_step(step, shared);
  else
    row_step(step);
}

}  // namespace adak::cuda
