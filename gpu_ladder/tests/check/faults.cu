// One fault each, for `python -m gpu_ladder check`: see faults.py.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

struct Scale {
  float factor;
  int shift;
};

template <class T>
__global__ void scale(int n, Scale by, const T* x, T* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = static_cast<T>(by.factor * static_cast<float>(x[(i + by.shift) % n]));
}

__global__ void beyond(int n, const float* x, float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = x[i];
}

__global__ void unwritten(int n, const float* x, float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += x[i];
}

__global__ void turned(const float* x, float* y) { y[threadIdx.x] = x[32 * threadIdx.x]; }

#ifdef __CUDACC__
void host(const float* x, float* y) { turned<<<1, 32>>>(x, y); }
#endif
