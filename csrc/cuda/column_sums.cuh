// Sums along the columns of a tile: of values, or of deviations as well. Every thread sums its rows
// in registers; then the slots of a warp are merged by shuffles, and the warps through shared
// memory, always in the same order.
#pragma once

#include "cuda/matrix_tiles.cuh"

namespace adak::cuda {

// One column's rows so far: their mean relative to `shift`, and the squares of their deviations
// from it. Groups of rows are pooled (Chan, Golub, LeVeque 1983), so that a variance is a sum of
// squared deviations. The shift is one of the values where they are far from zero, so that rounding
// is relative to their spread and not to their size. Near zero there is none: the mean may be small
// beside every value, and its rounding is then relative to the mean.
struct Pool {
  float shift;
  float mean;
  float squares;

  // Pools the `there` first of four rows: rate = there / rows in all, pooled = rate * rows before.
  template <bool whole>
  __device__ void add(const float (&rows)[rows_together], int there, bool first, float rate,
                      float pooled) {
    if (first) *this = {are_far<whole>(rows, there) ? rows[0] : 0.0f, 0.0f, 0.0f};
    float away[rows_together];
    float center = 0;
#pragma unroll
    for (int r = 0; r < rows_together; ++r) {
      away[r] = whole || r < there ? rows[r] - shift : 0.0f;
      center += away[r];
    }
    center = whole ? center * (1.0f / rows_together) : center / static_cast<float>(there);
    float spread = 0;
#pragma unroll
    for (int r = 0; r < rows_together; ++r) {
      const float deviation = whole || r < there ? away[r] - center : 0.0f;
      spread = fmaf(deviation, deviation, spread);
    }
    const float delta = center - mean;
    mean = fmaf(delta, rate, mean);
    squares += fmaf(delta * delta, pooled, spread);
  }

  // Pools another `more` rows into `count`; not both are zero.
  __device__ void merge(float count, const Pool& other, float more) {
    if (count == 0.0f) *this = other;
    if (count == 0.0f || more == 0.0f) return;
    const float rate = more / (count + more);
    const float delta = (other.shift - shift) + (other.mean - mean);
    mean = fmaf(delta, rate, mean);
    squares += fmaf(delta * delta, count * rate, other.squares);
  }

 private:
  // From zero, beside their distances from one another.
  template <bool whole>
  __device__ static bool are_far(const float (&rows)[rows_together], int there) {
    float apart = 0;
#pragma unroll
    for (int r = 1; r < rows_together; ++r)
      if (whole || r < there) apart = fmaxf(apart, fabsf(rows[r] - rows[0]));
    return fabsf(rows[0]) > 4 * apart;
  }
};

// What a thread knows of its columns.
template <int size, bool with_variance>
struct ColumnSums;

template <int size>
struct ColumnSums<size, false> {
  float sums[size] = {};

  // Rows that are not there are zero.
  __device__ void add(const float (&rows)[rows_together][size], int) {
#pragma unroll
    for (int k = 0; k < size; ++k) sums[k] += (rows[0][k] + rows[1][k]) + (rows[2][k] + rows[3][k]);
  }
  __device__ void merge_lanes(int offset) {
#pragma unroll
    for (int k = 0; k < size; ++k) sums[k] += __shfl_down_sync(whole_warp, sums[k], offset);
  }
};

template <int size>
struct ColumnSums<size, true> {
  int count = 0;
  Pool pools[size] = {};

  __device__ void add(const float (&rows)[rows_together][size], int there) {
    if (there == rows_together)
      pool<true>(rows, there);
    else if (there > 0)
      pool<false>(rows, there);
  }
  __device__ void merge_lanes(int offset) {
    const int more = __shfl_down_sync(whole_warp, count, offset);
#pragma unroll
    for (int k = 0; k < size; ++k) {
      const Pool other = {__shfl_down_sync(whole_warp, pools[k].shift, offset),
                          __shfl_down_sync(whole_warp, pools[k].mean, offset),
                          __shfl_down_sync(whole_warp, pools[k].squares, offset)};
      pools[k].merge(static_cast<float>(count), other, static_cast<float>(more));
    }
    count += more;
  }

 private:
  template <bool whole>
  __device__ void pool(const float (&rows)[rows_together][size], int there) {
    const float before = static_cast<float>(count);
    const float rate = static_cast<float>(there) / (before + static_cast<float>(there));
#pragma unroll
    for (int k = 0; k < size; ++k) {
      const float column[rows_together] = {rows[0][k], rows[1][k], rows[2][k], rows[3][k]};
      pools[k].template add<whole>(column, there, count == 0, rate, before * rate);
    }
    count += there;
  }
};

// The sums of a tile's columns in shared memory: those of every slot, or of every warp where a warp
// holds several slots, and in the end, in the place of the first, the result.
template <bool with_variance>
struct ColumnTotals {
  static constexpr int kinds = with_variance ? 3 : 1;

  float* mean;     // [parts, width]: sums, or the shifts of pools; then the means
  float* squares;  // [parts, width]; then the variances
  float* offset;   // [parts, width]: the means of pools relative to their shifts
  int* counts;     // [parts]
  int width;
  int lanes;
  int parts;

  __host__ __device__ static int part_count(int lanes) {
    return moments_threads / (lanes < warp_threads ? warp_threads : lanes);
  }
  // In floats, a multiple of 4.
  __host__ __device__ static int numbers(int size, int lanes) {
    return kinds * part_count(lanes) * lanes * size + moments_threads / warp_threads;
  }
  __device__ ColumnTotals(float* memory, int size, int lane_count)
      : mean(memory), width(lane_count * size), lanes(lane_count), parts(part_count(lane_count)) {
    squares = mean + (with_variance ? parts * width : 0);
    offset = squares + (with_variance ? parts * width : 0);
    counts = reinterpret_cast<int*>(offset + parts * width);
  }
  __device__ double* end() const {
    return reinterpret_cast<double*>(counts + moments_threads / warp_threads);
  }

  // Takes what the threads of a tile know; called by all of them.
  template <int size, class Tile>
  __device__ void gather(ColumnSums<size, with_variance>& sums, const Tile& tile) const {
    for (int apart = lanes; apart < warp_threads; apart *= 2) sums.merge_lanes(apart);
    const int warp = static_cast<int>(threadIdx.x) / warp_threads;
    if (lanes < warp_threads && static_cast<int>(threadIdx.x) % warp_threads >= lanes) return;
    const int part = lanes < warp_threads ? warp : tile.slot;
    if constexpr (with_variance) {
      float shifts[size], means[size], spreads[size];
#pragma unroll
      for (int k = 0; k < size; ++k) {
        shifts[k] = sums.pools[k].shift;
        means[k] = sums.pools[k].mean;
        spreads[k] = sums.pools[k].squares;
      }
      store_columns(shifts, mean + part * width, tile);
      store_columns(means, offset + part * width, tile);
      store_columns(spreads, squares + part * width, tile);
    } else {
      store_columns(sums.sums, mean + part * width, tile);
    }
    if constexpr (with_variance)
      if (tile.lane == 0) counts[part] = sums.count;
  }

  // Adds up the parts of every column. `whole`: these are all rows there are, so that sums become
  // means, and squares variances.
  __device__ void merge(int rows, bool whole) const {
    for (int column = static_cast<int>(threadIdx.x); column < width; column += moments_threads) {
      if constexpr (with_variance) {
        Pool pool = {mean[column], offset[column], squares[column]};
        int count = counts[0];
        for (int part = 1; part < parts; ++part) {
          const int at = part * width + column;
          const Pool other = {mean[at], offset[at], squares[at]};
          pool.merge(static_cast<float>(count), other, static_cast<float>(counts[part]));
          count += counts[part];
        }
        mean[column] = pool.shift + pool.mean;
        squares[column] = whole ? pool.squares / static_cast<float>(rows - 1) : pool.squares;
      } else {
        float sum = mean[column];
        for (int part = 1; part < parts; ++part) sum += mean[part * width + column];
        mean[column] = whole ? sum / static_cast<float>(rows) : sum;
      }
    }
  }
};

}  // namespace adak::cuda
