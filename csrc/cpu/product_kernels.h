// What one instruction set provides for convolutions: h_i[r, l] = sum_t a_i[r, t] b_i[l, t].
//
// A tile is `rows` values of a, each broadcast, by `vectors` vectors of b; its sums stay in
// registers while t runs. Elements are widened to the sum type where they are packed, so that all
// that multiplies knows sum types alone; "elements" below are those unless a type is named.
#pragma once

#include <cstdint>

namespace adak::cpu {

// One tile for several samples; a's elements are at broadcast[row_offsets[r] +
// position_offsets[t]].
struct ProductTile {
  const void* broadcast;
  std::int64_t broadcast_sample;  // elements between samples
  const std::int64_t* row_offsets;
  const std::int64_t* position_offsets;
  std::int64_t positions;
  const void* lanes;  // [samples, positions, vectors], packed
  std::int64_t lanes_sample;
  std::int64_t samples;
  std::int64_t used_rows;
  void* values;            // [used_rows, samples, vectors]
  std::int64_t row_pitch;  // elements between the rows of values
  double* sq_norms;        // [samples]: squares of the values are added; null: not wanted
  // What is packed next: one address for each position is asked for. It need not be a tensor's.
  const char* ahead;
  std::int64_t ahead_sample;  // bytes between samples, and between positions
  std::int64_t ahead_step;
};

// Pools a tile's values of `samples` samples into sums, and squared deviations from their mean.
struct ProductSweep {
  const void* values;
  std::int64_t row_pitch;
  std::int64_t rows;
  std::int64_t vectors;
  std::int64_t samples;
  std::int64_t before;  // samples that sum and squares hold already
  void* sum;            // [rows, vectors]
  void* squares;        // or null
};

// Adds every sample's inner product with `total` to products.
struct ProductDots {
  const void* values;
  std::int64_t row_pitch;
  std::int64_t rows;
  std::int64_t vectors;
  std::int64_t samples;
  const void* total;  // [rows, vectors]
  double* products;
};

// Copies rows of adjacent elements of the tensors' type into rows `pitch` apart. What lies between
// `columns` and `pitch` becomes zero; up to a vector beyond the last row is overwritten.
struct ProductRows {
  const void* from;
  std::int64_t stride;  // between rows
  std::int64_t rows;
  std::int64_t columns;
  void* into;
  std::int64_t pitch;
  void* sums;  // [columns, rounded up to vectors]: the sum of the rows is added; null: not wanted
};

// The same for elements that lie `column_stride` apart.
struct ProductGather {
  ProductRows rows;
  std::int64_t column_stride;
};

// A height of tiles, and how many vectors wide they may be.
struct TileShape {
  std::int64_t rows;
  std::int64_t vectors;
  void (*tiles[3])(const ProductTile&);  // [vectors - 1]
};

struct ProductKernels {
  std::int64_t width;  // elements of a vector
  const TileShape* shapes;
  std::int64_t shape_count;
  void (*sweep)(const ProductSweep&);
  void (*dots)(const ProductDots&);
  void (*copy_rows)(const ProductRows&);
  void (*gather_rows)(const ProductGather&);
};

}  // namespace adak::cpu
