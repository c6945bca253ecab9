// What the subjects share: kernels of csrc/cuda, in float32 alone, launched by hand on few blocks.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/sum_partials.cuh"
#include "kernels.h"

namespace subject {

using namespace adak::cuda;

inline constexpr unsigned block_count = 2;
// Of every step: rate, epsilon, weight decay, gradient scale, ascent.
inline constexpr adak::AdagradScalars scalars{0.1, 1e-3, 0.01, 2.0, false};

// Launches one after another until one fails.
class Launches {
 public:
  template <class... Params>
  void operator()(void (*kernel)(Params...), dim3 grid, unsigned threads, std::int64_t shared_bytes,
                  Params... params) {
    if (error_ == 0 && shared_bytes > 48 << 10)
      error_ = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes));
    if (error_ != 0) return;
    void* addresses[] = {&params...};
    error_ = cudaLaunchKernel(kernel, grid, dim3(threads), addresses,
                              static_cast<std::size_t>(shared_bytes), nullptr);
  }
  // out[r] = sum over parts p of partials[p, r].
  void sum(const double* partials, std::int64_t numbers, double* out) {
    (*this)(sum_partials_kernel, dim3(static_cast<unsigned>((numbers + 31) / 32)), sum_threads, 0,
            partials, static_cast<std::int64_t>(block_count), numbers, out);
  }
  int error() const { return error_; }

 private:
  int error_ = 0;
};

// An array of the caller's.
template <class T>
T* array(void* const* arrays, int index) {
  return static_cast<T*>(arrays[index]);
}

}  // namespace subject

// Runs the kernels on the caller's arrays; 0, or the first error.
extern "C" __attribute__((visibility("default"))) int subject_run(void* const* arrays,
                                                                  const long long* sizes);
