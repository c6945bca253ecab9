// The mean and the variance of rows that are one group, and the step along the mean.
#include "cuda/batch_moments.cuh"
#include "rows.h"
#include "subject.h"

using namespace subject;

// arrays: grads, mean, variance, partials (2 for each row), squared norms, param, accumulator
// sizes: samples, features, row stride, lanes
int subject_run(void* const* arrays, const long long* sizes) {
  const Rows rows(sizes, sizes[0]);
  auto* const partials = array<double>(arrays, 3);
  const Matrix<float> matrix = rows.matrix(array<float>(arrays, 0), partials, nullptr);
  const Columns<float> columns{
      array<float>(arrays, 1), array<float>(arrays, 2), 0,
      array<float>(arrays, 5), array<float>(arrays, 6), AdagradRule(scalars)};
  Launches launches;
  launches(moments_kernel<float, true, false, true>, dim3(block_count), moments_threads,
           rows.shared_bytes(ColumnTotals<true>::numbers(Chunk<float>::size, matrix.lanes)), matrix,
           columns);
  launches.sum(partials, matrix.samples, array<double>(arrays, 4));
  return launches.error();
}
