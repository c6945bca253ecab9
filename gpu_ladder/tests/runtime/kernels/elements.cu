// One thread for each element or vector: conversions, vector loads and stores, grids of any size.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "launch.h"

namespace {
__device__ inline long long global_index() {
  return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}
}  // namespace

// Sixteen bytes at a time, and the tail one by one.
__global__ void scale_kernel(float* values, long long count, float factor) {
  const long long i = global_index();
  if (4 * i + 3 < count) {
    float4 four = reinterpret_cast<float4*>(values)[i];
    four.x *= factor;
    four.y *= factor;
    four.z *= factor;
    four.w *= factor;
    reinterpret_cast<float4*>(values)[i] = four;
  } else {
    for (long long k = 4 * i; k < count; ++k) values[k] *= factor;
  }
}

template <class T>
struct Numbers;
template <>
struct Numbers<__nv_bfloat16> {
  __device__ static float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
  __device__ static __nv_bfloat16 narrow(float value) { return __float2bfloat16_rn(value); }
};
template <>
struct Numbers<__half> {
  __device__ static float widen(__half value) { return __half2float(value); }
  __device__ static __half narrow(float value) { return __float2half_rn(value); }
};

template <class T>
__global__ void widen_kernel(const T* in, float* out, long long count) {
  const long long i = global_index();
  if (i < count) out[i] = Numbers<T>::widen(in[i]);
}
template <class T>
__global__ void narrow_kernel(const float* in, T* out, long long count) {
  const long long i = global_index();
  if (i < count) out[i] = Numbers<T>::narrow(in[i]);
}

// What a shuffle of each kind gives to each lane of one warp, in groups of `width`.
__global__ void shuffles_kernel(const double* in, double* out, int amount, int width) {
  const unsigned lane = threadIdx.x;
  const unsigned whole = 0xffffffffu;
  out[lane] = __shfl_sync(whole, in[lane], amount, width);
  out[32 + lane] = __shfl_up_sync(whole, in[lane], static_cast<unsigned>(amount), width);
  out[64 + lane] = __shfl_down_sync(whole, in[lane], static_cast<unsigned>(amount), width);
  out[96 + lane] = __shfl_xor_sync(whole, in[lane], amount, width);
}

// Votes and reductions of a warp whose odd lanes vote apart from the even ones.
__global__ void votes_kernel(const int* in, unsigned* out) {
  const unsigned lane = threadIdx.x;
  const unsigned mask = lane % 2 ? 0xaaaaaaaau : 0x55555555u;
  const int value = in[lane];
  unsigned* const mine = out + lane * 10;
  if (lane % 2) {
    mine[0] = __ballot_sync(mask, value > 0);
    mine[1] = static_cast<unsigned>(__any_sync(mask, value > 90));
    mine[2] = static_cast<unsigned>(__all_sync(mask, value > -100));
    mine[3] = static_cast<unsigned>(__reduce_add_sync(mask, value));
  } else {
    mine[0] = __ballot_sync(mask, value <= 0);
    mine[1] = static_cast<unsigned>(__any_sync(mask, value > 100));
    mine[2] = static_cast<unsigned>(__all_sync(mask, value > -50));
    mine[3] = __reduce_xor_sync(mask, static_cast<unsigned>(value));
  }
  __syncwarp();
  const unsigned whole = 0xffffffffu;
  mine[4] = static_cast<unsigned>(__reduce_min_sync(whole, value));
  mine[5] = static_cast<unsigned>(__reduce_max_sync(whole, value));
  mine[6] = __reduce_min_sync(whole, static_cast<unsigned>(value));
  mine[7] = __match_any_sync(whole, value % 4);
  mine[8] = static_cast<unsigned>(__syncthreads_count(value > 0));
  mine[9] =
      static_cast<unsigned>(__syncthreads_and(value > -100) * 2 + __syncthreads_or(value > 99));
}

// Counts values into bins in shared memory, and adds the bins up, both by atomics.
__global__ void histogram_kernel(const int* in, long long count, unsigned* bins, int* extremes) {
  __shared__ unsigned own[64];
  if (threadIdx.x < 64) own[threadIdx.x] = 0;
  __syncthreads();
  const long long i = global_index();
  if (i < count) {
    atomicAdd(&own[in[i] & 63], 1u);
    atomicMin(&extremes[0], in[i]);
    atomicMax(&extremes[1], in[i]);
  }
  __syncthreads();
  if (threadIdx.x < 64) atomicAdd(&bins[threadIdx.x], own[threadIdx.x]);
}

EXPORTED int scale(float* values, long long count, float factor) {
  const long long threads = (count + 3) / 4;
  return launch(scale_kernel, dim3(static_cast<unsigned>((threads + 127) / 128)), dim3(128), 0,
                values, count, factor);
}
template <class T>
int widen(const T* in, float* out, long long count) {
  return launch(widen_kernel<T>, dim3(static_cast<unsigned>((count + 255) / 256)), dim3(256), 0, in,
                out, count);
}
template <class T>
int narrow(const float* in, T* out, long long count) {
  return launch(narrow_kernel<T>, dim3(static_cast<unsigned>((count + 255) / 256)), dim3(256), 0,
                in, out, count);
}
EXPORTED int widen_bfloat16(const __nv_bfloat16* in, float* out, long long count) {
  return widen(in, out, count);
}
EXPORTED int widen_half(const __half* in, float* out, long long count) {
  return widen(in, out, count);
}
EXPORTED int narrow_bfloat16(const float* in, __nv_bfloat16* out, long long count) {
  return narrow(in, out, count);
}
EXPORTED int narrow_half(const float* in, __half* out, long long count) {
  return narrow(in, out, count);
}
EXPORTED int shuffles(const double* in, double* out, int amount, int width) {
  return launch(shuffles_kernel, dim3(1), dim3(32), 0, in, out, amount, width);
}
EXPORTED int votes(const int* in, unsigned* out) {
  return launch(votes_kernel, dim3(1), dim3(32), 0, in, out);
}
EXPORTED int histogram(const int* in, long long count, unsigned* bins, int* extremes) {
  return launch(histogram_kernel, dim3(static_cast<unsigned>((count + 127) / 128)), dim3(128), 0,
                in, count, bins, extremes);
}
