// Atomics, the last block that adds up the partial sums, and threads of one warp that wait for one
// another.
extern "C" __global__ void histogram(const int* keys, unsigned* counts, float* total, int count) {
  __shared__ unsigned local[16];
  if (threadIdx.x < 16) local[threadIdx.x] = 0;
  __syncthreads();
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index < count) atomicAdd(&local[keys[index] & 15], 1u);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
  if (threadIdx.x == 0) atomicAdd(total, 1.0f);
}

template <bool fenced>
__device__ void last_block(const float* values, float* partial, unsigned* ticket, float* result,
                           int count) {
  __shared__ float warp_sums[32];
  __shared__ bool is_last;
  float sum = 0.0f;
  for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < count;
       index += gridDim.x * blockDim.x)
    sum += values[index];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += warp_sums[warp];
    partial[blockIdx.x] = total;
    if (fenced) __threadfence();
    is_last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    if (fenced) __threadfence();
  }
  __syncthreads();
  if (is_last && threadIdx.x == 0) {
    float total = 0.0f;
    for (unsigned block = 0; block < gridDim.x; ++block) total += partial[block];
    *result = total;
  }
}
extern "C" __global__ void last_block_sum(const float* values, float* partial, unsigned* ticket,
                                          float* result, int count) {
  last_block<true>(values, partial, ticket, result, count);
}
extern "C" __global__ void last_block_sum_unfenced(const float* values, float* partial,
                                                   unsigned* ticket, float* result, int count) {
  last_block<false>(values, partial, ticket, result, count);
}
// Every lane takes the lock in turn: hangs unless diverged lanes of a warp are scheduled fairly.
extern "C" __global__ void lane_lock(unsigned* lock, unsigned* counter) {
  bool done = false;
  while (!done) {
    if (atomicCAS(lock, 0u, 1u) == 0u) {
      __threadfence();
      *counter += 1;
      __threadfence();
      atomicExch(lock, 0u);
      done = true;
    }
  }
}
// Lane 0 waits for lane 31 of its own warp.
extern "C" __global__ void lane_handshake(volatile unsigned* flag, unsigned* out) {
  if (threadIdx.x == 0)
    while (atomicAdd(const_cast<unsigned*>(flag), 0u) == 0u) {
    }
  else if (threadIdx.x == 31)
    atomicExch(const_cast<unsigned*>(flag), 7u);
  __syncwarp();
  out[threadIdx.x] = threadIdx.x;
}
extern "C" __global__ void collectives(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned result = __ballot_sync(0xffffffffu, lane % 3 == 0);
  result ^= __any_sync(0xffffffffu, lane == 7) ? 1u << 20 : 0u;
  result ^= __all_sync(0xffffffffu, lane < 32) ? 1u << 21 : 0u;
  result += __match_any_sync(0xffffffffu, lane / 5);
  result += __reduce_add_sync(0xffffffffu, lane * lane);
  result += __reduce_max_sync(0xffffffffu, lane ^ 21u);
  if (lane < 16) result += __shfl_up_sync(0x0000ffffu, lane * 3, 1);
  result += __popc(__activemask()) + __ffs(result) + __clz(result) + __brev(lane);
  out[lane] = result;
}
