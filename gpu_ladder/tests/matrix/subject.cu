// One op of the project, float32 alone, launched by hand: what faults are planted in.
#include "cuda/batch_moments.cuh"
#include "cuda/sum_partials.cuh"

using namespace adak::cuda;

namespace {

template <class... Params>
int launch(void (*kernel)(Params...), unsigned blocks, unsigned threads, unsigned shared_bytes,
           Params... params) {
  void* addresses[] = {&params...};
  return cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), addresses, shared_bytes, nullptr);
}

}  // namespace

// Every statistic of `samples` rows of `features` columns, on two blocks with `lanes` threads to a
// row; `partials` holds four doubles for each row. 0, or the first error.
extern "C" __attribute__((visibility("default"))) int subject(
    const float* grads, long long samples, long long features, long long row_stride, int lanes,
    float* mean, float* variance, double* partials, double* sq_norms, double* products) {
  constexpr unsigned blocks = 2;
  const int rows = static_cast<int>(samples);
  const int together = moments_threads / lanes * rows_together;
  const int shared = ColumnTotals<true>::numbers(Chunk<float>::size, lanes) * 4 +
                     RowTotals::numbers(rows, lanes) * 16 +
                     (rows + together - 1) / together * together * lanes * 16;
  const Matrix<float> matrix{grads,   samples, features, row_stride,
                             samples, lanes,   partials, partials + blocks * samples};
  const Columns<float> columns{mean, variance, 0, nullptr, nullptr, AdagradRule({})};
  int error = launch(moments_kernel<float, true, true, true>, blocks, moments_threads,
                     static_cast<unsigned>(shared), matrix, columns);
  double* const out[] = {sq_norms, products};
  for (int i = 0; i < 2 && error == 0; ++i)
    error = launch(sum_partials_kernel, static_cast<unsigned>((samples + 31) / 32), sum_threads, 0,
                   static_cast<const double*>(partials) + i * blocks * samples,
                   static_cast<std::int64_t>(blocks), static_cast<std::int64_t>(samples), out[i]);
  return error;
}
