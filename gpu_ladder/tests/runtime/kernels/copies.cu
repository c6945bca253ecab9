// Accesses that are no plain loads and stores of a number: copies of whole objects, volatile flags.
#include <cstring>

#include "launch.h"

struct Record {
  float values[12];
};

// By memcpy and by assignment, through shared memory.
__global__ void copy_records_kernel(const Record* in, Record* out) {
  __shared__ Record kept[32];
  memcpy(&kept[threadIdx.x], in + threadIdx.x, sizeof(Record));
  __syncthreads();
  out[threadIdx.x] = kept[31 - threadIdx.x];
}

// Clears more bytes than a record has, where it is told to.
__global__ void clear_records_kernel(Record* out, int bytes) {
  std::memset(out + threadIdx.x, 0, static_cast<std::size_t>(bytes));
}

// Block 0 hands a number over by a volatile flag; run after it, block 1 takes it.
template <bool with_fence>
__global__ void flag_kernel(volatile unsigned* flag, float* number, float* out) {
  if (blockIdx.x == 0) {
    *number = 5.0f;
    if constexpr (with_fence) __threadfence();
    *flag = 1;
  } else if (*flag == 1) {
    if constexpr (with_fence) __threadfence();
    *out = *number;
  }
}

// Thread 0 waits for thread 40 by a volatile flag.
__global__ void waiting_flag_kernel(volatile unsigned* flag, float* number) {
  if (threadIdx.x == 0) {
    while (*flag == 0) {
    }
    __threadfence();
    number[0] = number[1];
  } else if (threadIdx.x == 40) {
    number[1] = 3.0f;
    __threadfence();
    *flag = 1;
  }
}

EXPORTED int waiting_flag(unsigned* flag, float* number) {
  volatile unsigned* const raised = flag;
  return launch(waiting_flag_kernel, dim3(1), dim3(64), 0, raised, number);
}
EXPORTED int copy_records(const Record* in, Record* out) {
  return launch(copy_records_kernel, dim3(1), dim3(32), 0, in, out);
}
EXPORTED int clear_records(Record* out, int bytes) {
  return launch(clear_records_kernel, dim3(1), dim3(4), 0, out, bytes);
}
EXPORTED int flag(unsigned* raised, float* number, float* out, int with_fence) {
  volatile unsigned* const flag = raised;
  return launch(with_fence ? flag_kernel<true> : flag_kernel<false>, dim3(2), dim3(1), 0, flag,
                number, out);
}
