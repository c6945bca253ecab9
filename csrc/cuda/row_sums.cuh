// Sums along the rows of a tile: over the lanes that share a row, and over all tiles of a block.
#pragma once

#include "cuda/device.cuh"

namespace adak::cuda {

inline constexpr int moments_threads = 256;
inline constexpr int rows_together = 4;

// Sums over the lanes that share a row, of four rows together: each of two exchanges halves the
// number of sums that a lane carries, so that six shuffles do what twenty would.
struct RowSums {
  int width;  // lanes of one warp that share a row: a power of two from 4 on

  // The sum of the row `row()`; called by whole warps.
  __device__ float operator()(const float (&values)[rows_together]) const {
    const bool upper = (lane() & (width / 2)) != 0;
    const bool odd = (lane() & (width / 4)) != 0;
    const float first = exchange(values[0], values[2], upper, width / 2);
    const float second = exchange(values[1], values[3], upper, width / 2);
    return sum_lanes(exchange(first, second, odd, width / 4), width / 4);
  }
  __device__ int row() const {
    return ((lane() & (width / 2)) != 0 ? 2 : 0) + ((lane() & (width / 4)) != 0 ? 1 : 0);
  }
  // Of the lanes that have the same sum, the one that keeps it.
  __device__ bool keeps() const { return (lane() & (width / 4 - 1)) == 0; }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % warp_threads; }
  // The upper lanes go on with the second value, the others with the first.
  __device__ static float exchange(float first, float second, bool upper, int offset) {
    const float mine = upper ? second : first;
    const float others = upper ? first : second;
    return mine + __shfl_xor_sync(whole_warp, others, offset);
  }
};

// Sums of a group's rows in shared memory, over all tiles of a block. Every one is added to by one
// and the same thread: warps that share a row have sums of their own.
struct RowTotals {
  double* sums;  // [warps that share a row, rows]
  int rows;
  int warps;

  __host__ __device__ static int sharing_warps(int lanes) {
    return lanes > warp_threads ? lanes / warp_threads : 1;
  }
  // An even number, so that what follows is aligned to 16 bytes.
  __host__ __device__ static int numbers(int rows, int lanes) {
    return (rows * sharing_warps(lanes) + 1) / 2 * 2;
  }
  __device__ RowTotals(double* memory, int row_count, int lanes)
      : sums(memory), rows(row_count), warps(sharing_warps(lanes)) {}
  __device__ double* end() const { return sums + (rows * warps + 1) / 2 * 2; }

  __device__ void clear() const {
    for (int i = static_cast<int>(threadIdx.x); i < rows * warps; i += moments_threads) sums[i] = 0;
  }
  __device__ void add(int row, int lane, float sum) const {
    sums[lane / warp_threads * rows + row] += static_cast<double>(sum);
  }
  __device__ void write(double* out) const {
    for (int row = static_cast<int>(threadIdx.x); row < rows; row += moments_threads) {
      double total = 0;
      for (int warp = 0; warp < warps; ++warp) total += sums[warp * rows + row];
      out[row] = total;
    }
  }
};

}  // namespace adak::cuda
