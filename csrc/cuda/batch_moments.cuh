// mean_j = (1/b) sum_i g_ij, squares_j = sum_i (g_ij - mean_j)^2, s_i = |g_i|^2, p_i = <g_i, mean>,
// and, where asked, AdaGrad's update along the mean.
//
// moments_kernel reads G from device memory once. A block takes a group of at most `group_rows`
// rows and, one after another, every gridDim.x-th tile of their columns. `lanes` threads share a
// row of the tile, 16 bytes each; the others take other rows, four at a time. Rows come through
// shared memory, asked for before they are needed (strips.cuh). A thread keeps the sums of its
// columns in registers; the block adds them up through shared memory, and has the mean of the
// tile's columns. The inner products need that mean first: for them the tile stays in shared
// memory, where every thread finds its own chunks again for a second sweep. Norms and products of
// the group's rows add up in shared memory over all tiles of the block, which leaves one partial
// sum per row (sum_partials.cuh).
//
// More rows than a group are cut into groups. Their columns' sums are then partial, merged by
// merge_groups_kernel: 8 bytes written and read per column and group of 1,024 rows, 0.4 % of G in
// float32. The mean is known only after that, so inner products read G a second time
// (products_kernel): up to 1,024 rows they cost one read of G, beyond that two.
//
// Least traffic: 4BD bytes of float32, 2BD of the narrow types, and 4D for the mean and the
// variance each; the update moves four elements per column more. Sums of a column in float32, of a
// row in float32 within a warp's share of it and from there in float64.
#pragma once

#include "cuda/adagrad_rule.cuh"
#include "cuda/column_sums.cuh"
#include "cuda/strips.cuh"

namespace adak::cuda {

inline constexpr std::int64_t group_rows = 1024;

// Where statistics of columns go, and the update that goes with them.
template <class T>
struct Columns {
  float* mean;          // [groups, stride]; of several groups the sums, or means beside squares
  float* variance;      // [groups, stride], or null; of several groups the squares
  std::int64_t stride;  // a multiple of 4: rows are aligned to 16 bytes
  T* param;             // [features], or null: no update
  T* state_sum;
  AdagradRule rule;
};

// <rows[r], with>, over this thread's columns.
template <int size>
__device__ inline void products(const float (&rows)[rows_together][size], const float (&with)[size],
                                float (&out)[rows_together]) {
#pragma unroll
  for (int r = 0; r < rows_together; ++r) {
    out[r] = 0;
#pragma unroll
    for (int k = 0; k < size; ++k) out[r] = fmaf(rows[r][k], with[k], out[r]);
  }
}

// Writes what is known of a tile's columns, and updates their parameters.
template <class T>
__device__ inline void write_columns(const Columns<T>& out, std::int64_t group, std::int64_t start,
                                     std::int64_t features, int lanes, const float* mean,
                                     const float* spread) {
  const int width = lanes * Chunk<T>::size;
  const std::int64_t left = features - start;
  const std::int64_t at = group * out.stride + start;
  for (int i = static_cast<int>(threadIdx.x); i < width / 4; i += moments_threads) {
    store_chunk(Chunk<float>::of(reinterpret_cast<const uint4*>(mean)[i]), out.mean + at, left, i,
                width / 4, true);
    if (spread)
      store_chunk(Chunk<float>::of(reinterpret_cast<const uint4*>(spread)[i]), out.variance + at,
                  left, i, width / 4, true);
  }
  if (out.param == nullptr) return;
  T* param = out.param + start;
  T* sum = out.state_sum + start;
  const bool aligned = is_aligned(param) && is_aligned(sum);
  for (int lane = static_cast<int>(threadIdx.x); lane < lanes; lane += moments_threads) {
    Chunk<T> params = load_chunk(param, left, lane, lanes, aligned);
    Chunk<T> sums = load_chunk(sum, left, lane, lanes, aligned);
    float grads[Chunk<T>::size];
#pragma unroll
    for (int k = 0; k < Chunk<T>::size; ++k) grads[k] = mean[place<T>(lane, lanes, k, aligned)];
    out.rule(params, sums, grads);
    store_chunk(params, param, left, lane, lanes, aligned);
    store_chunk(sums, sum, left, lane, lanes, aligned);
  }
}

template <class T, bool with_variance, bool with_products, bool aligned>
__global__ void __launch_bounds__(moments_threads, 2)
    moments_kernel(const __grid_constant__ Matrix<T> matrix,
                   const __grid_constant__ Columns<T> columns) {
  constexpr int size = Chunk<T>::size;
  const Tile<T, aligned> tile(matrix);
  const RowSums row_sums = tile.row_sums();
  const ColumnTotals<with_variance> totals(dynamic_shared<float>(), size, matrix.lanes);
  const RowTotals norms(totals.end(), tile.rows, matrix.lanes);
  const RowTotals inner(with_products ? norms.end() : norms.sums, tile.rows, matrix.lanes);
  Strips<T, aligned> strips(tile, reinterpret_cast<uint4*>(inner.end()));
  norms.clear();
  inner.clear();
  __syncthreads();
  for (std::int64_t t = blockIdx.x; t < tile.count(); t += gridDim.x) {
    const std::int64_t start = t * tile.width();
    [[maybe_unused]] int slot = strips.slot();
    ColumnSums<size, with_variance> sums;
    for (int base = 0; base < tile.rows; base += tile.rows_at_a_time()) {
      const int there = tile.rows_there(base);
      Chunk<T> chunks[rows_together];
      strips.take(base, start, chunks);
      float rows[rows_together][size];
#pragma unroll
      for (int r = 0; r < rows_together; ++r) unpack(chunks[r], rows[r]);
      float own[rows_together];
      squares(rows, own);
      const float norm = row_sums(own);
      if (row_sums.keeps() && row_sums.row() < there)
        norms.add(tile.row(base) + row_sums.row(), tile.lane, norm);
      sums.add(rows, there);
    }
    totals.gather(sums, tile);
    __syncthreads();
    totals.merge(tile.rows, gridDim.y == 1);
    __syncthreads();
    if constexpr (with_products) {
      float mean[size];
      load_columns(totals.mean, mean, tile);
      for (int base = 0; base < tile.rows; base += tile.rows_at_a_time()) {
        const int there = tile.rows_there(base);
        Chunk<T> chunks[rows_together];
        slot = strips.read(slot, chunks);
        float rows[rows_together][size];
#pragma unroll
        for (int r = 0; r < rows_together; ++r) unpack(chunks[r], rows[r]);
        float with_mean[rows_together];
        products(rows, mean, with_mean);
        const float product = row_sums(with_mean);
        if (row_sums.keeps() && row_sums.row() < there)
          inner.add(tile.row(base) + row_sums.row(), tile.lane, product);
      }
    }
    write_columns(columns, blockIdx.y, start, matrix.features, matrix.lanes, totals.mean,
                  with_variance ? totals.squares : nullptr);
    __syncthreads();
  }
  const std::int64_t out = blockIdx.x * matrix.samples + tile.first_row;
  norms.write(matrix.norm_partials + out);
  if constexpr (with_products) inner.write(matrix.product_partials + out);
}

// The inner products of all rows with a mean that is known: the second read of G.
template <class T, bool aligned>
__global__ void __launch_bounds__(moments_threads, 2)
    products_kernel(const __grid_constant__ Matrix<T> matrix, const float* mean) {
  constexpr int size = Chunk<T>::size;
  const Tile<T, aligned> tile(matrix);
  const RowSums row_sums = tile.row_sums();
  const RowTotals inner(dynamic_shared<double>(), tile.rows, matrix.lanes);
  Strips<T, aligned> strips(tile, reinterpret_cast<uint4*>(inner.end()));
  inner.clear();
  __syncthreads();
  for (std::int64_t t = blockIdx.x; t < tile.count(); t += gridDim.x) {
    const std::int64_t start = t * tile.width();
    float of_columns[size];
#pragma unroll
    for (int k = 0; k < size; ++k) {
      const std::int64_t column = start + tile.column(k);
      of_columns[k] = column < matrix.features ? mean[column] : 0.0f;
    }
    for (int base = 0; base < tile.rows; base += tile.rows_at_a_time()) {
      const int there = tile.rows_there(base);
      Chunk<T> chunks[rows_together];
      strips.take(base, start, chunks);
      float rows[rows_together][size];
#pragma unroll
      for (int r = 0; r < rows_together; ++r) unpack(chunks[r], rows[r]);
      float with_mean[rows_together];
      products(rows, of_columns, with_mean);
      const float product = row_sums(with_mean);
      if (row_sums.keeps() && row_sums.row() < there)
        inner.add(tile.row(base) + row_sums.row(), tile.lane, product);
    }
  }
  __syncthreads();
  inner.write(matrix.product_partials + blockIdx.x * matrix.samples + tile.first_row);
}

// Merges the groups' sums of every column, and updates the parameters along the mean. A block takes
// the columns of moments_threads chunks of T.
template <class T, bool with_variance>
__global__ void __launch_bounds__(moments_threads)
    merge_groups_kernel(const __grid_constant__ Matrix<T> matrix,
                        const __grid_constant__ Columns<T> groups,
                        const __grid_constant__ Columns<T> columns) {
  constexpr int width = moments_threads * Chunk<T>::size;
  alignas(16) __shared__ float mean[width];
  alignas(16) __shared__ float spread[with_variance ? width : 4];
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * width;
  const std::int64_t left = matrix.features - start;
  for (int column = static_cast<int>(threadIdx.x); column < width; column += moments_threads) {
    Pool pool = {0.0f, 0.0f, 0.0f};
    std::int64_t rows = 0;
    for (std::int64_t group = 0; column < left && rows < matrix.samples; ++group) {
      const std::int64_t at = group * groups.stride + start + column;
      const std::int64_t rest = matrix.samples - rows;
      const std::int64_t more = rest < matrix.rows_per_group ? rest : matrix.rows_per_group;
      if constexpr (with_variance) {
        const Pool other = {0.0f, groups.mean[at], groups.variance[at]};
        pool.merge(static_cast<float>(rows), other, static_cast<float>(more));
      } else {
        pool.mean += groups.mean[at];
      }
      rows += more;
    }
    mean[column] =
        with_variance ? pool.shift + pool.mean : pool.mean / static_cast<float>(matrix.samples);
    if constexpr (with_variance)
      spread[column] = pool.squares / static_cast<float>(matrix.samples - 1);
  }
  __syncthreads();
  write_columns(columns, 0, start, matrix.features, moments_threads, mean,
                with_variance ? spread : nullptr);
}

}  // namespace adak::cuda
