// Every statistic of rows that are cut into groups, and the step along the mean.
#include "cuda/batch_moments.cuh"
#include "rows.h"
#include "subject.h"

using namespace subject;

// arrays: grads, means and squares of groups, mean, variance, partials (4 for each row), squared
// norms, products, param, accumulator
// sizes: samples, features, row stride, lanes, rows of a group
int subject_run(void* const* arrays, const long long* sizes) {
  const Rows rows(sizes, sizes[4]);
  auto* const partials = array<double>(arrays, 5);
  const Matrix<float> matrix =
      rows.matrix(array<float>(arrays, 0), partials, partials + block_count * sizes[0]);
  const auto groups = static_cast<unsigned>((sizes[0] + sizes[4] - 1) / sizes[4]);
  const AdagradRule rule(scalars);
  const Columns<float> of_groups{array<float>(arrays, 1),
                                 array<float>(arrays, 2),
                                 (sizes[1] + 3) / 4 * 4,
                                 nullptr,
                                 nullptr,
                                 rule};
  const Columns<float> columns{array<float>(arrays, 3), array<float>(arrays, 4), 0,
                               array<float>(arrays, 8), array<float>(arrays, 9), rule};
  const dim3 grid(block_count, groups);
  Launches launches;
  launches(moments_kernel<float, true, false, true>, grid, moments_threads,
           rows.shared_bytes(ColumnTotals<true>::numbers(Chunk<float>::size, matrix.lanes)), matrix,
           of_groups);
  launches(merge_groups_kernel<float, true>, dim3(1), moments_threads, 0, matrix, of_groups,
           columns);
  launches(products_kernel<float, true>, grid, moments_threads, rows.shared_bytes(0), matrix,
           static_cast<const float*>(columns.mean));
  launches.sum(partials, matrix.samples, array<double>(arrays, 6));
  launches.sum(partials + block_count * sizes[0], matrix.samples, array<double>(arrays, 7));
  return launches.error();
}
