// Sums over rows with shuffles, over columns with shared memory: what a reduction kernel is made
// of.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// One warp per row: 16-byte loads, a butterfly, one store. [rows, columns], columns a multiple
// of 4.
extern "C" __global__ void row_sums(const float* __restrict__ values, float* __restrict__ sums,
                                    int rows, int columns) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const float4* line = reinterpret_cast<const float4*>(values + static_cast<size_t>(row) * columns);
  float sum = 0.0f;
  for (int index = threadIdx.x; index < columns / 4; index += 32) {
    const float4 four = __ldg(line + index);
    sum += (four.x + four.y) + (four.z + four.w);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x == 0) sums[row] = sum;
}

// One block per 32 columns; 8 rows at a time, summed through shared memory in a fixed order.
template <class T>
__device__ float widen(T value);
template <>
__device__ float widen(float value) {
  return value;
}
template <>
__device__ float widen(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
template <>
__device__ float widen(__half value) {
  return __half2float(value);
}

template <class T>
__device__ void column_sums(const T* values, float* sums, int rows, int columns) {
  __shared__ float partial[8][32];
  const int column = blockIdx.x * 32 + threadIdx.x;
  float sum = 0.0f;
  if (column < columns)
    for (int row = threadIdx.y; row < rows; row += 8)
      sum = fmaf(widen(values[static_cast<size_t>(row) * columns + column]), 1.5f, sum);
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < columns) {
    float total = 0.0f;
    for (int part = 0; part < 8; ++part) total += partial[part][threadIdx.x];
    sums[column] = total;
  }
}
extern "C" __global__ void column_sums_f32(const float* v, float* s, int rows, int columns) {
  column_sums(v, s, rows, columns);
}
extern "C" __global__ void column_sums_bf16(const __nv_bfloat16* v, float* s, int rows,
                                            int columns) {
  column_sums(v, s, rows, columns);
}
extern "C" __global__ void column_sums_f16(const __half* v, float* s, int rows, int columns) {
  column_sums(v, s, rows, columns);
}

// A running mean and root in float64: division and square root are inlined by the compiler.
extern "C" __global__ void double_roots(const double* values, double* roots, int count) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index < count) roots[index] = sqrt(values[index]) / (1.0 + values[index] * 3.0);
}
extern "C" __global__ void adagrad(float* parameter, float* sum, const float* gradient, float rate,
                                   float epsilon, int count) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const float g = gradient[index];
  const float s = fmaf(g, g, sum[index]);
  sum[index] = s;
  parameter[index] -= rate * g / (sqrtf(s) + epsilon);
}
// Round to narrow types, and unsigned 64-bit division.
extern "C" __global__ void narrow(const float* values, __nv_bfloat16* brain, __half* half_out,
                                  unsigned long long* quotient, int count) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) return;
  brain[index] = __float2bfloat16_rn(values[index]);
  half_out[index] = __float2half_rn(values[index]);
  quotient[index] = (1ull << 40) / (static_cast<unsigned long long>(index) + 3ull);
}
