// CUDA C++ for a host compiler: qualifiers, a thread's place, barriers, collectives of a warp,
// fences.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "host_model.h"

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__
// One block is there at a time, so one copy will do. Thread-local variables are in a segment of
// their own, by which the model knows them.
#define __shared__ static thread_local
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (::gpu_ladder::thread_index())
#define blockIdx (::gpu_ladder::block_index())
#define blockDim (::gpu_ladder::block_size())
#define gridDim (::gpu_ladder::grid_size())
inline constexpr int warpSize = 32;

// Where a function is called, as its last arguments.
#define GPU_LADDER_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(GPU_LADDER_HERE) {
  gpu_ladder::block_barrier({"__syncthreads", file, line}, false);
}
inline int __syncthreads_count(int predicate, GPU_LADDER_HERE) {
  return gpu_ladder::block_barrier({"__syncthreads_count", file, line}, predicate != 0);
}
inline int __syncthreads_or(int predicate, GPU_LADDER_HERE) {
  return gpu_ladder::block_barrier({"__syncthreads_or", file, line}, predicate != 0) != 0;
}
inline int __syncthreads_and(int predicate, GPU_LADDER_HERE) {
  return gpu_ladder::block_barrier({"__syncthreads_and", file, line}, predicate == 0) == 0;
}
inline void __threadfence() { gpu_ladder::fence(); }
inline void __threadfence_block() { gpu_ladder::fence(); }
inline void __threadfence_system() { gpu_ladder::fence(); }

inline void __syncwarp(unsigned mask = ~0u, GPU_LADDER_HERE) {
  gpu_ladder::collective({"__syncwarp", file, line}, gpu_ladder::Collective::synchronise, mask, 0);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, GPU_LADDER_HERE) {
  return static_cast<unsigned>(gpu_ladder::collective(
      {"__ballot_sync", file, line}, gpu_ladder::Collective::ballot, mask, predicate != 0));
}
inline int __any_sync(unsigned mask, int predicate, GPU_LADDER_HERE) {
  return gpu_ladder::collective({"__any_sync", file, line}, gpu_ladder::Collective::ballot, mask,
                                predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate, GPU_LADDER_HERE) {
  return gpu_ladder::collective({"__all_sync", file, line}, gpu_ladder::Collective::ballot, mask,
                                predicate == 0) == 0;
}

namespace gpu_ladder {

// The numbers that the CUDA headers shuffle and reduce.
template <class T>
concept Shuffled = (std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8)) ||
                   requires(T value) { shuffles_as_bits(value); };

template <class T>
std::uint64_t to_bits(T value) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return bits;
}
template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
// `source`: a lane of the warp; one's own where there is none.
template <class T>
T shuffle(const Place& place, unsigned mask, T value, unsigned source) {
  return from_bits<T>(collective(place, Collective::shuffle, mask, to_bits(value), source));
}

}  // namespace gpu_ladder

// Lanes exchange values within groups of `width`, a power of two.
template <gpu_ladder::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, GPU_LADDER_HERE) {
  const unsigned within = static_cast<unsigned>(width) - 1;
  const unsigned first = gpu_ladder::lane() & ~within;
  return gpu_ladder::shuffle({"__shfl_sync", file, line}, mask, value,
                             first | (static_cast<unsigned>(source) & within));
}
template <gpu_ladder::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, GPU_LADDER_HERE) {
  const unsigned lane = gpu_ladder::lane();
  const unsigned place = lane & (static_cast<unsigned>(width) - 1);
  return gpu_ladder::shuffle({"__shfl_up_sync", file, line}, mask, value,
                             delta % 32 <= place ? lane - delta % 32 : lane);
}
template <gpu_ladder::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, GPU_LADDER_HERE) {
  const unsigned lane = gpu_ladder::lane();
  const unsigned place = lane & (static_cast<unsigned>(width) - 1);
  const bool inside = delta % 32 < static_cast<unsigned>(width) - place;
  return gpu_ladder::shuffle({"__shfl_down_sync", file, line}, mask, value,
                             inside ? lane + delta % 32 : lane);
}
// Unlike the others, it may read from a group before one's own.
template <gpu_ladder::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize, GPU_LADDER_HERE) {
  const unsigned lane = gpu_ladder::lane();
  const unsigned source = lane ^ (static_cast<unsigned>(lane_mask) & 31u);
  const unsigned last = lane | (static_cast<unsigned>(width) - 1);
  return gpu_ladder::shuffle({"__shfl_xor_sync", file, line}, mask, value,
                             source <= last ? source : lane);
}

#define GPU_LADDER_REDUCTION(name, type, operation)                                               \
  inline type name(unsigned mask, type value, GPU_LADDER_HERE) {                                  \
    return gpu_ladder::from_bits<type>(gpu_ladder::collective({#name, file, line},                \
                                                              gpu_ladder::Collective::operation,  \
                                                              mask, gpu_ladder::to_bits(value))); \
  }
GPU_LADDER_REDUCTION(__reduce_add_sync, unsigned, add)
GPU_LADDER_REDUCTION(__reduce_add_sync, int, add)
GPU_LADDER_REDUCTION(__reduce_min_sync, unsigned, min_unsigned)
GPU_LADDER_REDUCTION(__reduce_min_sync, int, min_signed)
GPU_LADDER_REDUCTION(__reduce_max_sync, unsigned, max_unsigned)
GPU_LADDER_REDUCTION(__reduce_max_sync, int, max_signed)
GPU_LADDER_REDUCTION(__reduce_and_sync, unsigned, bit_and)
GPU_LADDER_REDUCTION(__reduce_or_sync, unsigned, bit_or)
GPU_LADDER_REDUCTION(__reduce_xor_sync, unsigned, bit_xor)
#undef GPU_LADDER_REDUCTION

template <gpu_ladder::Shuffled T>
unsigned __match_any_sync(unsigned mask, T value, GPU_LADDER_HERE) {
  return static_cast<unsigned>(gpu_ladder::collective({"__match_any_sync", file, line},
                                                      gpu_ladder::Collective::match, mask,
                                                      gpu_ladder::to_bits(value)));
}

#undef GPU_LADDER_HERE
