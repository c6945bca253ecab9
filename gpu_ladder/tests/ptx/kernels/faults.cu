// Each kernel has one planted fault; its name says which.
extern "C" __global__ void missing_barrier(const float* in, float* out) {
  __shared__ float line[128];
  line[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = line[127 - threadIdx.x];
}
extern "C" __global__ void tail_off_by_one(const float* in, float* out, int count) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index <= count) out[index] = in[index] * 2.0f;
}
extern "C" __global__ void misaligned_vector(const float* in, float* out) {
  const float4 four = *reinterpret_cast<const float4*>(in + 1 + 4 * threadIdx.x);
  out[threadIdx.x] = four.x + four.y + four.z + four.w;
}
extern "C" __global__ void uninitialised_shared(const float* in, float* out) {
  __shared__ float line[128];
  if (threadIdx.x < 100) line[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = line[threadIdx.x];
}
extern "C" __global__ void wrong_shuffle_offset(const float* in, float* out) {
  float sum = in[threadIdx.x];
  for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x == 0) out[0] = sum;
}
extern "C" __global__ void divergent_barrier(const float* in, float* out) {
  __shared__ float line[64];
  line[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 40) {
    __syncthreads();
    out[threadIdx.x] = line[39 - threadIdx.x];
  } else {
    out[threadIdx.x] = 1.0f;
  }
}
extern "C" __global__ void barrier_skipped_by_warp(const float* in, float* out) {
  __shared__ float line[64];
  line[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 32) __syncthreads();
  __syncthreads();
  out[threadIdx.x] = line[63 - threadIdx.x];
}
extern "C" __global__ void divergent_shuffle(const float* in, float* out) {
  float value = in[threadIdx.x];
  if (threadIdx.x < 16) value += __shfl_down_sync(0xffffffffu, value, 8);
  out[threadIdx.x] = value;
}
extern "C" __global__ void shuffle_outside_mask(const float* in, float* out) {
  float value = in[threadIdx.x];
  if (threadIdx.x < 16) value += __shfl_down_sync(0x0000ffffu, value, 8);
  out[threadIdx.x] = value;
}
template <bool waits>
__device__ void asynchronous_copy(const float4* in, float4* out) {
  __shared__ float4 line[32];
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(&line[threadIdx.x]));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(target), "l"(in + threadIdx.x)
               : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  if (waits) asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  out[threadIdx.x] = line[31 - threadIdx.x];
}
extern "C" __global__ void copy_without_wait(const float4* in, float4* out) {
  asynchronous_copy<false>(in, out);
}
extern "C" __global__ void copy_with_wait(const float4* in, float4* out) {
  asynchronous_copy<true>(in, out);
}
extern "C" __global__ void blocks_race(float* out) { out[0] += 1.0f; }
extern "C" __global__ void runaway(volatile int* flag) {
  while (*flag == 0) {
  }
}
