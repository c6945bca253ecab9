// A first chunk of rows, and a second one that is added to it.
#include "cuda/accumulate_moments.cu"
#include "rows.h"
#include "subject.h"

using namespace subject;

// arrays: rows, sum, squares, partials (2 for each row), squared norms
// sizes: rows, features, row stride, lanes, rows of the first chunk
int subject_run(void* const* arrays, const long long* sizes) {
  auto* const partials = array<double>(arrays, 3);
  Launches launches;
  for (const bool first : {true, false}) {
    const std::int64_t before = first ? 0 : sizes[4];
    const long long cut[] = {first ? sizes[4] : sizes[0] - before, sizes[1], sizes[2], sizes[3]};
    const Rows rows(cut, cut[0]);
    double* const own = partials + block_count * before;
    const Matrix<float> chunk =
        rows.matrix(array<float>(arrays, 0) + before * sizes[2], own, nullptr);
    const Running running{array<float>(arrays, 1), array<float>(arrays, 2), before};
    launches(first ? accumulate_moments_kernel<float, true, true, true>
                   : accumulate_moments_kernel<float, false, true, true>,
             dim3(block_count), moments_threads,
             rows.shared_bytes(ColumnParts<true>::numbers(Chunk<float>::size, chunk.lanes)), chunk,
             running);
    launches.sum(own, chunk.samples, array<double>(arrays, 4) + before);
  }
  return launches.error();
}
