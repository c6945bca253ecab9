// AdaGrad-Norm's step of a list of tensors with an accumulator for each row.
#include "cuda/adagrad_norm_step.cu"
#include "tensors.h"

using namespace subject;

// arrays and sizes: as in tensors.h; then partials (2), the squared norm
int subject_run(void* const* arrays, const long long* sizes) {
  const TensorTable<float> table =
      table_of(arrays, sizes, [](std::int64_t size, std::int64_t rows) {
        const std::int64_t at_once = update_threads / threads_per_row(size / rows);
        return (rows + at_once - 1) / at_once;
      });
  auto* const partials = array<double>(arrays, behind(sizes));
  Launches launches;
  launches(row_step_kernel<float>, dim3(block_count), update_threads, 0, table, Direction(scalars),
           scalars.lr, scalars.eps, grad_scale(), values_of(arrays, sizes), partials);
  launches.sum(partials, 1, array<double>(arrays, behind(sizes) + 1));
  return launches.error();
}
