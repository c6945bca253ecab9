// Kernels that are wrong, each in one way.
#include "launch.h"

namespace {
constexpr unsigned whole_warp = 0xffffffffu;

__device__ inline float sum_warp(float value) {
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_xor_sync(whole_warp, value, offset);
  return value;
}
}  // namespace

// Blocks add to one number, and not by atomics.
__global__ void plain_sum_kernel(const float* in, float* total) {
  const float sum = sum_warp(in[blockIdx.x * 32 + threadIdx.x]);
  if (threadIdx.x == 0) *total += sum;
}

// The last thread is one too many.
__global__ void off_by_one_kernel(float* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i <= count) out[i] = 1.0f;
}

// Half of the block waits in one barrier, half in another.
__global__ void two_barriers_kernel(float* out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1.0f;
}

// The last warp does not wait.
__global__ void skipped_barrier_kernel(float* out) {
  if (threadIdx.x >= 96) return;
  __syncthreads();
  out[threadIdx.x] = 1.0f;
}

// Lanes 16 and up wait for the block instead.
__global__ void divergent_shuffle_kernel(const float* in, float* out) {
  float value = in[threadIdx.x];
  if (threadIdx.x < 16) value = sum_warp(value);
  __syncthreads();
  out[threadIdx.x] = value;
}

// Lanes 16 and up have gone.
__global__ void absent_lanes_kernel(const float* in, float* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = sum_warp(in[threadIdx.x]);
}

// Reads from a lane that its mask leaves out.
__global__ void unmasked_shuffle_kernel(const float* in, float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, in[threadIdx.x], 16);
}

// Two shuffles that are not the same one.
__global__ void two_shuffles_kernel(const float* in, float* out) {
  const float value = in[threadIdx.x];
  if (threadIdx.x < 16)
    out[threadIdx.x] = __shfl_xor_sync(whole_warp, value, 1);
  else
    out[threadIdx.x] = __shfl_xor_sync(whole_warp, value, 2);
}

// A float4 at whatever address it is told.
__global__ void vector_kernel(const float* in, float* out) {
  reinterpret_cast<float4*>(out)[threadIdx.x] =
      *reinterpret_cast<const float4*>(in + 4 * threadIdx.x);
}

// One more row of shared memory is read than was written.
__global__ void unwritten_kernel(const float* in, float* out) {
  __shared__ float rows[5][32];
  for (int k = 0; k < 4; ++k) rows[k][threadIdx.x] = in[k * 32 + static_cast<int>(threadIdx.x)];
  float sum = 0;
  for (int k = 0; k < 5; ++k) sum += rows[k][threadIdx.x];
  out[threadIdx.x] = sum;
}

// Neighbours in a warp exchange through shared memory without __syncwarp, or with it.
template <bool with_sync>
__global__ void neighbours_kernel(const float* in, float* out) {
  __shared__ float kept[32];
  kept[threadIdx.x] = in[threadIdx.x];
  if constexpr (with_sync) __syncwarp();
  out[threadIdx.x] = kept[threadIdx.x ^ 1];
}

// Waits for a block that cannot run.
__global__ void waiting_kernel(unsigned* flag) {
  if (blockIdx.x == 0) {
    while (atomicAdd(flag, 0u) == 0) {
    }
  } else {
    atomicExch(flag, 1u);
  }
}

// Waits for a later thread of its own block.
__global__ void handover_kernel(unsigned* flag, float* out) {
  if (threadIdx.x == 0) {
    while (atomicAdd(flag, 0u) == 0) {
    }
    __threadfence();
    out[0] = out[1];
  } else if (threadIdx.x == 40) {
    out[1] = 7.0f;
    __threadfence();
    atomicExch(flag, 1u);
  }
}

// Beyond the end of shared memory.
__global__ void shared_overflow_kernel(float* out) {
  auto* const kept = static_cast<float*>(gpu_ladder::dynamic_shared());
  kept[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = kept[threadIdx.x];
}

EXPORTED int fault_plain_sum(const float* in, float* total) {
  return launch(plain_sum_kernel, dim3(4), dim3(32), 0, in, total);
}
EXPORTED int fault_off_by_one(float* out, int count) {
  return launch(off_by_one_kernel, dim3(static_cast<unsigned>(count) / 64 + 1), dim3(64), 0, out,
                count);
}
EXPORTED int fault_two_barriers(float* out) {
  return launch(two_barriers_kernel, dim3(1), dim3(64), 0, out);
}
EXPORTED int fault_skipped_barrier(float* out) {
  return launch(skipped_barrier_kernel, dim3(1), dim3(128), 0, out);
}
EXPORTED int fault_divergent_shuffle(const float* in, float* out) {
  return launch(divergent_shuffle_kernel, dim3(1), dim3(64), 0, in, out);
}
EXPORTED int fault_absent_lanes(const float* in, float* out) {
  return launch(absent_lanes_kernel, dim3(1), dim3(32), 0, in, out);
}
EXPORTED int fault_unmasked_shuffle(const float* in, float* out) {
  return launch(unmasked_shuffle_kernel, dim3(1), dim3(32), 0, in, out);
}
EXPORTED int fault_two_shuffles(const float* in, float* out) {
  return launch(two_shuffles_kernel, dim3(1), dim3(32), 0, in, out);
}
EXPORTED int fault_vector(const float* in, float* out) {
  return launch(vector_kernel, dim3(1), dim3(8), 0, in, out);
}
EXPORTED int fault_unwritten(const float* in, float* out) {
  return launch(unwritten_kernel, dim3(1), dim3(32), 0, in, out);
}
EXPORTED int neighbours(const float* in, float* out, int with_sync) {
  return launch(with_sync ? neighbours_kernel<true> : neighbours_kernel<false>, dim3(1), dim3(32),
                0, in, out);
}
EXPORTED int fault_waiting(unsigned* flag) {
  return launch(waiting_kernel, dim3(2), dim3(1), 0, flag);
}
EXPORTED int handover(unsigned* flag, float* out) {
  return launch(handover_kernel, dim3(1), dim3(64), 0, flag, out);
}
EXPORTED int fault_shared_overflow(float* out) {
  return launch(shared_overflow_kernel, dim3(1), dim3(32), 32 * 4, out);
}
