// Brings elements of the tensors' type into rows of the sum type, in the order in which tiles read.
//
// Stores are of whole vectors, each row over the end of the one before it: masked stores cost tens
// of cycles on some processors. Sums of the rows, which are a layer's contributions to the gradient
// of its bias, are of the sum type.
#pragma once

#include "cpu/ops/product_tiles.inl"

namespace {

// Rows that lie this far ahead are asked for: a row is a new place in memory, where the prefetchers
// start afresh.
inline constexpr std::int64_t rows_ahead = 16;

template <class T, class Vec = VecOf<T>>
inline void copy_column(const ProductRows& p, std::int64_t column, auto... lanes) {
  using Lane = typename Vec::Lane;
  const T* from = static_cast<const T*>(p.from) + column;
  Lane* into = static_cast<Lane*>(p.into) + column;
  const std::int64_t ahead = rows_ahead * p.stride;
  Vec total[4];
  for (Vec& part : total) part = Vec::fill(0);
  std::int64_t t = 0;
  for (; t + 4 <= p.rows; t += 4) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      if (t + k + rows_ahead < p.rows) __builtin_prefetch(from + (t + k) * p.stride + ahead);
      const Vec row = Vec::load(from + (t + k) * p.stride, lanes...);
      row.store(into + (t + k) * p.pitch);
      total[k] = total[k] + row;
    }
  }
  for (; t < p.rows; ++t) {
    const Vec row = Vec::load(from + t * p.stride, lanes...);
    row.store(into + t * p.pitch);
    total[0] = total[0] + row;
  }
  if (p.sums == nullptr) return;
  Lane* sums = static_cast<Lane*>(p.sums) + column;
  const Vec all = (total[0] + total[1]) + (total[2] + total[3]);
  (Vec::load(sums) + all).store(sums);
}

template <class T, class Vec = VecOf<T>>
void copy_rows(const ProductRows& p) {
  using Lane = typename Vec::Lane;
  // Columns that the source has not, from the right, since stores run over what follows.
  std::int64_t zeros = p.columns + Vec::width - 1;
  zeros -= zeros % Vec::width;
  // A row narrower than a vector, or its last vector, would overwrite the next row if that were
  // stored first: columns run outside only where rows are whole vectors apart.
  if (p.pitch % Vec::width == 0 || (p.columns <= Vec::width && zeros >= p.pitch)) {
    for_each_vector<Vec>(p.columns, [&](std::int64_t column, auto... lanes) {
      copy_column<T>(p, column, lanes...);
    });
    for (std::int64_t t = 0; zeros < p.pitch && t < p.rows; ++t)
      for (std::int64_t column = zeros; column < p.pitch; column += Vec::width)
        Vec::fill(0).store(static_cast<Lane*>(p.into) + t * p.pitch + column);
    return;
  }
  for (std::int64_t t = 0; t < p.rows; ++t) {
    const T* from = static_cast<const T*>(p.from) + t * p.stride;
    Lane* into = static_cast<Lane*>(p.into) + t * p.pitch;
    for_each_vector<Vec>(p.columns, [&](std::int64_t column, auto... lanes) {
      const Vec row = Vec::load(from + column, lanes...);
      row.store(into + column);
      if (p.sums) {
        Lane* sums = static_cast<Lane*>(p.sums) + column;
        (Vec::load(sums) + row).store(sums);
      }
    });
    for (std::int64_t column = zeros; column < p.pitch; column += Vec::width)
      Vec::fill(0).store(into + column);
  }
}

// `count` elements, `stride` apart, as a vector.
template <class T, class Vec = VecOf<T>>
inline Vec gather(const T* from, std::int64_t stride, std::int64_t count) {
  T near[Vec::width] = {};
  for (std::int64_t i = 0; i < count; ++i) near[i] = from[i * stride];
  return Vec::load(near);
}

// A transpose, square by square: the columns of the source are rows of adjacent elements. Rows of
// the copy are whole vectors apart.
template <class T, class Vec = VecOf<T>>
inline void transpose_rows(const ProductRows& p, std::int64_t column_stride) {
  using Lane = typename Vec::Lane;
  constexpr std::int64_t width = Vec::width;
  for (std::int64_t column = 0; column < p.pitch; column += width) {
    std::int64_t columns = p.columns - column;
    columns = columns < 0 ? 0 : columns < width ? columns : width;
    Vec total = Vec::fill(0);
    for (std::int64_t t = 0; t < p.rows; t += width) {
      const std::int64_t rows = p.rows - t < width ? p.rows - t : width;
      const T* from = static_cast<const T*>(p.from) + t + column * column_stride;
      Lane* into = static_cast<Lane*>(p.into) + t * p.pitch + column;
      Vec square[width];
      if (rows == width && columns == width) {
        // What comes next in these rows; a prefetch may miss the tensor.
        for (std::int64_t i = 0; i < width; ++i)
          __builtin_prefetch(from + i * column_stride + 4 * width);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < width; ++i) square[i] = Vec::load(from + i * column_stride);
        Vec::transpose(square);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < width; ++i) {
          square[i].store(into + i * p.pitch);
          total = total + square[i];
        }
      } else {
        for (std::int64_t i = 0; i < width; ++i)
          square[i] = i < columns ? Vec::load(from + i * column_stride, rows) : Vec::fill(0);
        Vec::transpose(square);
        for (std::int64_t i = 0; i < rows; ++i) {
          square[i].store(into + i * p.pitch);
          total = total + square[i];
        }
      }
    }
    if (p.sums && columns > 0) {
      Lane* sums = static_cast<Lane*>(p.sums) + column;
      (Vec::load(sums) + total).store(sums);
    }
  }
}

template <class T, class Vec = VecOf<T>>
void gather_rows(const ProductGather& g) {
  using Lane = typename Vec::Lane;
  const ProductRows& p = g.rows;
  constexpr std::int64_t width = Vec::width;
  if (p.stride == 1 && p.pitch % width == 0) return transpose_rows<T>(p, g.column_stride);
  for (std::int64_t t = 0; t < p.rows; ++t) {
    for (std::int64_t column = 0; column < p.pitch; column += width) {
      std::int64_t columns = p.columns - column;
      columns = columns < 0 ? 0 : columns < width ? columns : width;
      const T* from = static_cast<const T*>(p.from) + t * p.stride + column * g.column_stride;
      const Vec row = gather<T>(from, g.column_stride, columns);
      row.store(static_cast<Lane*>(p.into) + t * p.pitch + column);
      if (p.sums && columns > 0) {
        Lane* sums = static_cast<Lane*>(p.sums) + column;
        (Vec::load(sums) + row).store(sums);
      }
    }
  }
}

template <class T>
constexpr ProductKernels product_kernels() {
  using Vec = VecOf<T>;
  using Shapes = TileShapes<Vec, Vec::registers>;
  return {Vec::width,        Shapes::list, Shapes::count, product_sweep<Vec>,
          product_dots<Vec>, copy_rows<T>, gather_rows<T>};
}

}  // namespace

constexpr ConvLoops conv_loops = {
    .products = {product_kernels<float>(), product_kernels<BFloat16>(), product_kernels<Float16>(),
                 product_kernels<double>()},
};
