// Kernels with one fault each; the gate must name it.
#include <cuda_runtime.h>

namespace planted {

// Lives off more numbers than 32 registers hold.
__global__ void __launch_bounds__(1024, 2) spilling_kernel(const float4* in, float4* out) {
  float4 chunks[24];
#pragma unroll
  for (int i = 0; i < 24; ++i) chunks[i] = in[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 24; ++i) out[i * 1024 + threadIdx.x] = chunks[23 - i];
}

// Four loads of 4 bytes where one of 16 would do.
__global__ void __launch_bounds__(128) scalar_kernel(const float* in, float4* out) {
  const float* const mine = in + 4 * threadIdx.x;
  out[threadIdx.x] = make_float4(mine[0], mine[1], mine[2], mine[3]);
}

// The stores, likewise.
__global__ void __launch_bounds__(128) scalar_store_kernel(const float4* in, float* out) {
  const float4 chunk = in[threadIdx.x];
  float* const mine = out + 4 * threadIdx.x;
  mine[0] = chunk.x;
  mine[1] = chunk.y;
  mine[2] = chunk.z;
  mine[3] = chunk.w;
}

// A sum in whatever order the threads arrive.
__global__ void __launch_bounds__(128) atomic_kernel(const float4* in, float* out) {
  const float4 chunk = in[threadIdx.x];
  atomicAdd(out, chunk.x + chunk.y + chunk.z + chunk.w);
}

// More registers than its budget, without a spill.
__global__ void __launch_bounds__(128) greedy_kernel(const float4* in, float4* out) {
  float4 chunks[24];
#pragma unroll
  for (int i = 0; i < 24; ++i) chunks[i] = in[i * 128 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 24; ++i) out[i * 128 + threadIdx.x] = chunks[23 - i];
}

// Bytes at a time from shared memory.
__global__ void __launch_bounds__(128) bytewise_kernel(const uint4* in, uint4* out) {
  __shared__ unsigned char kept[128 * 16];
  reinterpret_cast<uint4*>(kept)[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  unsigned sum = 0;
  for (int i = 0; i < 16; ++i) sum += kept[(threadIdx.x + static_cast<unsigned>(i) * 129u) % 2048];
  out[threadIdx.x] = make_uint4(sum, sum, sum, sum);
}

// One block takes all the shared memory that a launch gets without asking.
__global__ void __launch_bounds__(32) crowding_kernel(const float4* in, float4* out) {
  __shared__ float4 kept[3072];
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < 3072; i += 32) kept[i] = in[i];
  __syncthreads();
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < 3072; i += 32) out[i] = kept[3071 - i];
}

// Says nothing of the size of its blocks.
__global__ void boundless_kernel(const float4* in, float4* out) {
  out[threadIdx.x] = in[threadIdx.x];
}

}  // namespace planted
