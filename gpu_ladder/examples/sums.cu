// The sum of every row of 256 columns, by a block each: halves are added until one number is left.
// Planted: the barrier between two halvings is missing, and most devices give the right sums.
#include <cuda_runtime.h>

__global__ void row_sums(const float* rows, float* sums) {
  extern __shared__ float part[];
  part[threadIdx.x] = rows[256 * blockIdx.x + threadIdx.x];
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}
