// AdaGrad-Norm's step of a list of tensors that share an accumulator.
#include "cuda/adagrad_norm_step.cu"
#include "tensors.h"

using namespace subject;

// arrays and sizes: as in tensors.h, the accumulators unused; then partials (4), their sums (2),
// the accumulator, the squared norm, the size of the step
int subject_run(void* const* arrays, const long long* sizes) {
  const TensorTable<float> table = table_of(arrays, sizes, [](std::int64_t size, std::int64_t) {
    return (size + norm_piece_elements<float> - 1) / norm_piece_elements<float>;
  });
  const int at = behind(sizes);
  auto* const partials = array<double>(arrays, at);
  auto* const sums = array<double>(arrays, at + 1);
  auto* const size = array<float>(arrays, at + 4);
  const Direction direction(scalars);
  const DeviceValues values = values_of(arrays, sizes);
  Launches launches;
  launches(norm_kernel<float>, dim3(block_count), update_threads, 0, table, direction, grad_scale(),
           values, partials);
  launches.sum(partials, 2, sums);
  launches(accumulate_kernel, dim3(1), 1, 0, static_cast<const double*>(sums), scalars.lr,
           scalars.eps, values, array<double>(arrays, at + 2), array<double>(arrays, at + 3), size);
  launches(scaled_step_kernel<float>, dim3(block_count), update_threads, 0, table, direction,
           grad_scale(), values, static_cast<const float*>(size));
  return launches.error();
}
