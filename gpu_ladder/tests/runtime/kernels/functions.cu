// Functions of integers, floats and atomics, each of one pair of numbers.
#include "launch.h"

__global__ void integers_kernel(const unsigned* a, const unsigned* b, unsigned* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const unsigned long long wide = static_cast<unsigned long long>(a[i]) << 32 | b[i];
  unsigned* const of_pair = out + i * 12;
  of_pair[0] = static_cast<unsigned>(__popc(a[i]));
  of_pair[1] = static_cast<unsigned>(__popcll(wide));
  of_pair[2] = static_cast<unsigned>(__clz(static_cast<int>(a[i])));
  of_pair[3] = static_cast<unsigned>(__clzll(static_cast<long long>(wide)));
  of_pair[4] = static_cast<unsigned>(__ffs(static_cast<int>(a[i])));
  of_pair[5] = static_cast<unsigned>(__ffsll(static_cast<long long>(wide)));
  of_pair[6] = __umulhi(a[i], b[i]);
  of_pair[7] = min(a[i], b[i]);
  of_pair[8] = max(a[i], b[i]);
  of_pair[9] = static_cast<unsigned>(min(static_cast<int>(a[i]), static_cast<int>(b[i])));
  of_pair[10] = static_cast<unsigned>(max(static_cast<int>(a[i]), static_cast<int>(b[i])));
  of_pair[11] = __float_as_uint(__uint_as_float(a[i])) ^
                static_cast<unsigned>(__float_as_int(__int_as_float(static_cast<int>(b[i]))));
}

__global__ void floats_kernel(const float* a, const float* b, float* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  float* const of_pair = out + i * 9;
  of_pair[0] = __fadd_rn(a[i], b[i]);
  of_pair[1] = __fsub_rn(a[i], b[i]);
  of_pair[2] = __fmul_rn(a[i], b[i]);
  of_pair[3] = __fdiv_rn(a[i], b[i]);
  of_pair[4] = __fsqrt_rn(fabsf(a[i]));
  of_pair[5] = __frcp_rn(a[i]);
  of_pair[6] = __fmaf_rn(a[i], b[i], -of_pair[2]);  // what the product's rounding lost
  of_pair[7] = min(a[i], b[i]);
  of_pair[8] = max(a[i], b[i]);
}

// What an atomic function leaves in memory, and what it returns.
__global__ void atomics_kernel(const unsigned* a, const unsigned* b, unsigned* cells, unsigned* out,
                               int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  unsigned* const cell = cells + i * 13;
  for (int k = 0; k < 13; ++k) cell[k] = a[i];
  unsigned* const old = out + i * 13;
  old[0] = atomicAdd(cell + 0, b[i]);
  old[1] = atomicSub(cell + 1, b[i]);
  old[2] = atomicExch(cell + 2, b[i]);
  old[3] = atomicMin(cell + 3, b[i]);
  old[4] = atomicMax(cell + 4, b[i]);
  old[5] = atomicAnd(cell + 5, b[i]);
  old[6] = atomicOr(cell + 6, b[i]);
  old[7] = atomicXor(cell + 7, b[i]);
  old[8] = atomicInc(cell + 8, b[i]);
  old[9] = atomicDec(cell + 9, b[i]);
  old[10] = atomicCAS(cell + 10, b[i], 5u);
  old[11] =
      static_cast<unsigned>(atomicMin(reinterpret_cast<int*>(cell + 11), static_cast<int>(b[i])));
  old[12] =
      static_cast<unsigned>(atomicAdd(reinterpret_cast<int*>(cell + 12), static_cast<int>(b[i])));
}

EXPORTED int integers(const unsigned* a, const unsigned* b, unsigned* out, int count) {
  return launch(integers_kernel, dim3(static_cast<unsigned>(count + 63) / 64), dim3(64), 0, a, b,
                out, count);
}
EXPORTED int floats(const float* a, const float* b, float* out, int count) {
  return launch(floats_kernel, dim3(static_cast<unsigned>(count + 63) / 64), dim3(64), 0, a, b, out,
                count);
}
EXPORTED int atomics(const unsigned* a, const unsigned* b, unsigned* cells, unsigned* out,
                     int count) {
  return launch(atomics_kernel, dim3(static_cast<unsigned>(count + 63) / 64), dim3(64), 0, a, b,
                cells, out, count);
}
