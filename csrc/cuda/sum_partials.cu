// Launches sum_partials_kernel; and asks whether a device has its code, and so that of all kernels,
// which are compiled for the same architectures.
#include "cuda/sum_partials.cuh"
#include "cuda/sum_partials.h"

namespace adak::cuda {

void sum_partials(const Call& call, const double* partials, std::int64_t parts,
                  std::int64_t numbers, double* out) {
  call.launch(sum_partials_kernel, blocks(divide_up(numbers, warp_threads)), sum_threads, 0,
              partials, parts, numbers, out);
}

std::string obstacle(int device) {
  const Call call("the look for kernels", {device, nullptr});  // makes the device current
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, sum_partials_kernel);
  if (error == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

}  // namespace adak::cuda
