// AdaGrad's step of a list of tensors.
#include "cuda/adagrad_step.cu"
#include "tensors.h"

using namespace subject;

// arrays and sizes: as in tensors.h; then partials (2), the squared norm
int subject_run(void* const* arrays, const long long* sizes) {
  const TensorTable<float> table = table_of(arrays, sizes, [](std::int64_t size, std::int64_t) {
    return (size + piece_elements<float> - 1) / piece_elements<float>;
  });
  auto* const partials = array<double>(arrays, behind(sizes));
  Launches launches;
  launches(adagrad_step_kernel<float>, dim3(block_count), update_threads, 0, table,
           AdagradRule(scalars), grad_scale(), values_of(arrays, sizes), partials);
  launches.sum(partials, 1, array<double>(arrays, behind(sizes) + 1));
  return launches.error();
}
