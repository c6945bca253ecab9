// y = a x + y, four elements a thread where the addresses allow it.
#include <cuda_runtime.h>

__global__ void saxpy(int n, float a, const float* x, float* y) {
  const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (i + 3 < n) {
    const float4 left = *reinterpret_cast<const float4*>(x + i);
    float4 right = *reinterpret_cast<float4*>(y + i);
    right.x += a * left.x;
    right.y += a * left.y;
    right.z += a * left.z;
    right.w += a * left.w;
    *reinterpret_cast<float4*>(y + i) = right;
  } else {
    for (int k = i; k < n; ++k) y[k] += a * x[k];
  }
}
