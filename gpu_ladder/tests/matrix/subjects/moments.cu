// Every statistic of rows that are one group.
#include "cuda/batch_moments.cuh"
#include "subject.h"

using namespace subject;

// arrays: grads, mean, variance, partials (4 for each row), squared norms, products
// sizes: samples, features, row stride, lanes
int subject_run(void* const* arrays, const long long* sizes) {
  const std::int64_t samples = sizes[0];
  const int rows = static_cast<int>(samples);
  const int lanes = static_cast<int>(sizes[3]);
  const int together = moments_threads / lanes * rows_together;
  const int ring = (rows + together - 1) / together + most_ahead;
  const std::int64_t shared = ColumnTotals<true>::numbers(Chunk<float>::size, lanes) * 4 +
                              RowTotals::numbers(rows, lanes) * 16 + ring * strip_bytes;
  auto* const partials = array<double>(arrays, 3);
  const Matrix<float> matrix{array<float>(arrays, 0),
                             samples,
                             sizes[1],
                             sizes[2],
                             samples,
                             lanes,
                             most_ahead,
                             ring,
                             partials,
                             partials + block_count * samples};
  const Columns<float> columns{
      array<float>(arrays, 1), array<float>(arrays, 2), 0, nullptr, nullptr, AdagradRule({})};
  Launches launches;
  launches(moments_kernel<float, true, true, true>, dim3(block_count), moments_threads, shared,
           matrix, columns);
  launches.sum(partials, samples, array<double>(arrays, 4));
  launches.sum(partials + block_count * samples, samples, array<double>(arrays, 5));
  return launches.error();
}
