// Launches the kernels of adagrad_norm_step.cuh over tables of tensors.
#include "cuda/adagrad_norm_step.cuh"
#include "cuda/sum_partials.h"
#include "cuda/tensor_tables.h"

namespace adak::cuda {
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
