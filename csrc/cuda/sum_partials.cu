// Launches sum_partials_kernel.
#include "cuda/sum_partials.cuh"
#include "cuda/sum_partials.h"

namespace adak::cuda {

void sum_partials(const Call& call, const double* partials, std::int64_t parts,
                  std::int64_t numbers, double* out) {
  call.launch(sum_partials_kernel, blocks(divide_up(numbers, warp_threads)), sum_threads, 0,
              partials, parts, numbers, out);
}

}  // namespace adak::cuda
