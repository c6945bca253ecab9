// A function that is called instead of inlined.
#include <cuda_runtime.h>

__device__ __noinline__ float apart(float* sum, float value) { return atomicAdd(sum, value); }

__global__ void __launch_bounds__(128) calling_kernel(const float* in, float* out) {
  out[threadIdx.x] = apart(out, in[threadIdx.x]);
}
