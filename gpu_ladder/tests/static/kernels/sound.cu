// Two kernels that keep every budget.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "element.h"

namespace planted {

template <class T, bool negative, int times>
__global__ void __launch_bounds__(128) sound_kernel(const uint4* in, uint4* out) {
  __shared__ uint4 kept[128];
  kept[threadIdx.x] = in[blockIdx.x * 128 + threadIdx.x];
  __syncthreads();
  uint4 chunk = kept[127 - threadIdx.x];
  chunk.x = static_cast<unsigned>(times) * static_cast<unsigned>(sizeof(T)) +
            (negative ? ~chunk.x : chunk.x);
  out[blockIdx.x * 128 + threadIdx.x] = chunk;
}
template __global__ void sound_kernel<__nv_bfloat16, true, 3>(const uint4*, uint4*);
template __global__ void sound_kernel<element, false, 2>(const uint4*, uint4*);

}  // namespace planted
