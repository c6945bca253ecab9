// Transposes through shared memory: with a padded tile, and with one that has 32-way bank
// conflicts.
template <int pitch>
__device__ void transpose(const float* in, float* out, int rows, int columns) {
  __shared__ float tile[32][pitch];
  int column = blockIdx.x * 32 + threadIdx.x;
  int row = blockIdx.y * 32 + threadIdx.y;
  for (int step = 0; step < 32; step += 8)
    if (row + step < rows && column < columns)
      tile[threadIdx.y + step][threadIdx.x] =
          in[static_cast<size_t>(row + step) * columns + column];
  __syncthreads();
  column = blockIdx.y * 32 + threadIdx.x;
  row = blockIdx.x * 32 + threadIdx.y;
  for (int step = 0; step < 32; step += 8)
    if (row + step < columns && column < rows)
      out[static_cast<size_t>(row + step) * rows + column] = tile[threadIdx.x][threadIdx.y + step];
}
extern "C" __global__ void transpose_padded(const float* in, float* out, int rows, int columns) {
  transpose<33>(in, out, rows, columns);
}
extern "C" __global__ void transpose_conflicts(const float* in, float* out, int rows, int columns) {
  transpose<32>(in, out, rows, columns);
}
// The tile in dynamic shared memory; its size is known at launch only.
extern "C" __global__ void reverse_block(const int* in, int* out) {
  extern __shared__ __align__(16) int line[];
  line[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = line[blockDim.x - 1 - threadIdx.x];
}
