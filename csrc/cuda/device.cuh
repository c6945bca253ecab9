// What device code of every op shares: elements and their 16-byte chunks, sums over a warp, dynamic
// shared memory. No launches here, and nothing but the CUDA headers, so that the kernels can also
// be compiled for a CPU, where gpu_ladder/ executes and checks them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace adak::cuda {

inline constexpr unsigned whole_warp = 0xffffffffu;
inline constexpr int warp_threads = 32;

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(__half value) { return __half2float(value); }

template <class T>
__device__ inline T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline __half from_float<__half>(float value) {
  return __float2half_rn(value);
}

// 16 bytes of adjacent elements: what one thread loads or stores in one instruction.
template <class T>
struct Chunk {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T elements[size];

  __device__ static Chunk zero() { return of(make_uint4(0, 0, 0, 0)); }
  __device__ static Chunk of(
      uint4 bits) {  // by value: bytes of a shared array would be loaded singly
    Chunk chunk;
    memcpy(&chunk, &bits, sizeof(chunk));
    return chunk;
  }
  __device__ uint4 bits() const {
    uint4 bits;
    memcpy(&bits, this, sizeof(bits));
    return bits;
  }
};

__device__ inline bool is_aligned(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
}

// A span of adjacent elements is shared out among `lanes` threads, Chunk<T>::size to each. In
// aligned memory a thread has adjacent ones, one 16-byte access. Elsewhere neighbours in a warp
// have neighbouring elements in each of several accesses, which still touch every sector once.
template <class T>
__device__ inline int place(int lane, int lanes, int k, bool aligned) {
  return aligned ? lane * Chunk<T>::size + k : k * lanes + lane;
}

// Of what is left of a row, as far as a span can reach: compared in 32 bits.
__device__ inline int reach(std::int64_t left) {
  constexpr std::int64_t most = std::int64_t{1} << 30;
  return static_cast<int>(left < most ? left : most);
}

// This lane's elements of a span of which `left` exist; the others are zero.
template <class T>
__device__ inline Chunk<T> load_chunk(const T* span, std::int64_t left, int lane, int lanes,
                                      bool aligned) {
  constexpr int size = Chunk<T>::size;
  const int count = reach(left);
  if (aligned && (lane + 1) * size <= count)
    return Chunk<T>::of(__ldcs(reinterpret_cast<const uint4*>(span) + lane));
  Chunk<T> chunk;
#pragma unroll
  for (int k = 0; k < size; ++k) {
    const int at = place<T>(lane, lanes, k, aligned);
    chunk.elements[k] = at < count ? span[at] : from_float<T>(0.0f);
  }
  return chunk;
}

template <class T>
__device__ inline void store_chunk(const Chunk<T>& chunk, T* span, std::int64_t left, int lane,
                                   int lanes, bool aligned) {
  constexpr int size = Chunk<T>::size;
  const int count = reach(left);
  if (aligned && (lane + 1) * size <= count) {
    reinterpret_cast<uint4*>(span)[lane] = chunk.bits();
    return;
  }
#pragma unroll
  for (int k = 0; k < size; ++k) {
    const int at = place<T>(lane, lanes, k, aligned);
    if (at < count) span[at] = chunk.elements[k];
  }
}

// The sum over aligned groups of `lanes` lanes (a power of two), in every lane of the group.
template <class Number>
__device__ inline Number sum_lanes(Number value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(whole_warp, value, offset);
  return value;
}

// The sum over a block of `threads` threads, in thread 0; `scratch` holds one number per warp.
__device__ inline double sum_block(double value, double* scratch, int threads) {
  value = sum_lanes(value, warp_threads);
  const int warp = static_cast<int>(threadIdx.x) / warp_threads;
  if (threadIdx.x % warp_threads == 0) scratch[warp] = value;
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0)
    for (int w = 0; w < threads / warp_threads; ++w) total += scratch[w];
  __syncthreads();
  return total;
}

// The dynamic shared memory of the block.
template <class T>
__device__ inline T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#else
  return static_cast<T*>(gpu_ladder::dynamic_shared());
#endif
}

}  // namespace adak::cuda
