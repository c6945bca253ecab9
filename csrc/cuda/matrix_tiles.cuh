// A matrix of rows that a kernel reads tile by tile: which rows and columns a thread has of each.
#pragma once

#include "cuda/row_sums.cuh"

namespace adak::cuda {

// G, how it is cut, and where the sums of its parts go.
template <class T>
struct Matrix {
  const T* grads;  // [samples, features]
  std::int64_t samples;
  std::int64_t features;
  std::int64_t row_stride;
  std::int64_t rows_per_group;
  int lanes;                 // threads that share a row: a power of two from 4 to moments_threads
  int ahead;                 // strips asked for before they are needed, 0 to most_ahead
  int ring;                  // strips that shared memory holds
  double* norm_partials;     // [gridDim.x, samples]
  double* product_partials;  // [gridDim.x, samples], or null
};

// This block's rows, and this thread's place in a tile of them.
template <class T, bool aligned>
struct Tile {
  static constexpr bool adjacent = aligned;  // the columns of a thread

  const Matrix<T>& matrix;
  std::int64_t first_row;
  int rows;
  int lane;
  int slot;
  int slots;

  __device__ explicit Tile(const Matrix<T>& m)
      : matrix(m),
        first_row(static_cast<std::int64_t>(blockIdx.y) * m.rows_per_group),
        lane(static_cast<int>(threadIdx.x) & (m.lanes - 1)),
        slot(static_cast<int>(threadIdx.x) / m.lanes),
        slots(moments_threads / m.lanes) {
    const std::int64_t left = m.samples - first_row;
    rows = static_cast<int>(left < m.rows_per_group ? left : m.rows_per_group);
  }
  __device__ int width() const { return matrix.lanes * Chunk<T>::size; }
  __device__ std::int64_t count() const { return (matrix.features + width() - 1) / width(); }
  __device__ int column(int k) const { return place<T>(lane, matrix.lanes, k, aligned); }
  // Rows are shared out in fours: the first of this slot's, and how many of them there are.
  __device__ int rows_at_a_time() const { return slots * rows_together; }
  __device__ int row(int base) const { return base + slot * rows_together; }
  __device__ int rows_there(int base) const {
    const int left = rows - row(base);
    return left < 0 ? 0 : left < rows_together ? left : rows_together;
  }
  // Where the rows from row(base) on begin in the columns from `first_column` on.
  __device__ const T* span(int base, std::int64_t first_column) const {
    return matrix.grads + (first_row + row(base)) * matrix.row_stride + first_column;
  }
  // This thread's chunks there, zero where there is nothing. (strips.cuh has another way for rows
  // that are aligned.)
  __device__ void load(int base, std::int64_t first_column,
                       Chunk<T> (&chunks)[rows_together]) const {
    const T* const first = span(base, first_column);
    const std::int64_t left = matrix.features - first_column;
    const int there = rows_there(base);
#pragma unroll
    for (int r = 0; r < rows_together; ++r)
      chunks[r] = r < there
                      ? load_chunk(first + r * matrix.row_stride, left, lane, matrix.lanes, aligned)
                      : Chunk<T>::zero();
  }
  __device__ RowSums row_sums() const {
    return {matrix.lanes < warp_threads ? matrix.lanes : warp_threads};
  }
};

template <class T>
__device__ inline void unpack(const Chunk<T>& chunk, float (&values)[Chunk<T>::size]) {
#pragma unroll
  for (int k = 0; k < Chunk<T>::size; ++k) values[k] = to_float(chunk.elements[k]);
}

// This thread's columns of a row of shared memory. Where they are adjacent they go 16 bytes at a
// time: singly, threads of a warp would be four or eight banks apart and wait for one another.
template <int size, class Tile>
__device__ inline void store_columns(const float (&values)[size], float* row, const Tile& tile) {
  if constexpr (Tile::adjacent) {
#pragma unroll
    for (int k = 0; k < size; k += 4)
      *reinterpret_cast<float4*>(row + tile.column(k)) =
          make_float4(values[k], values[k + 1], values[k + 2], values[k + 3]);
  } else {
#pragma unroll
    for (int k = 0; k < size; ++k) row[tile.column(k)] = values[k];
  }
}
template <int size, class Tile>
__device__ inline void load_columns(const float* row, float (&values)[size], const Tile& tile) {
  if constexpr (Tile::adjacent) {
#pragma unroll
    for (int k = 0; k < size; k += 4) {
      const float4 four = *reinterpret_cast<const float4*>(row + tile.column(k));
      values[k] = four.x;
      values[k + 1] = four.y;
      values[k + 2] = four.z;
      values[k + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int k = 0; k < size; ++k) values[k] = row[tile.column(k)];
  }
}

// <rows[r], rows[r]>, over this thread's columns.
template <int size>
__device__ inline void squares(const float (&rows)[rows_together][size],
                               float (&out)[rows_together]) {
#pragma unroll
  for (int r = 0; r < rows_together; ++r) {
    out[r] = 0;
#pragma unroll
    for (int k = 0; k < size; ++k) out[r] = fmaf(rows[r][k], rows[r][k], out[r]);
  }
}

}  // namespace adak::cuda
