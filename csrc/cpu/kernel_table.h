// What one instruction set provides: the inner loops, for every element type. The drivers beside
// this file cut an op into tiles and chunks; the loops in ops/*.inl work on one of them.
#pragma once

#include <cstdint>

#include "cpu/product_kernels.h"
#include "kernels.h"

namespace adak::cpu {

// A block of G: `rows` rows of `columns` adjacent elements, `row_stride` elements apart.
struct Block {
  const void* grads;
  std::int64_t row_stride;
  std::int64_t rows;
  std::int64_t columns;
};

// First sweep over a block: its mean and, unless null, sums of squared deviations from it;
// squared norms are added to sq_norms[rows].
inline constexpr std::int64_t moments_columns = 4096;  // at most
struct MomentsSweep {
  Block block;
  void* mean;     // [columns], sum type
  void* squares;  // [columns], sum type, or null
  void* shift;    // [columns], sum type: scratch
  double* sq_norms;
};

// Second sweep: inner products with the mean are added to inner_products[rows].
struct ProductsSweep {
  Block block;
  const void* mean;  // [columns], sum type
  double* inner_products;
};

// Adds block `from` (of `from_rows` rows) to the mean and sums of squares of `into_rows` rows.
struct MomentsMerge {
  void* mean;
  void* squares;  // or null
  const void* from_mean;
  const void* from_squares;
  std::int64_t columns;
  std::int64_t into_rows;
  std::int64_t from_rows;
};

// squares / (rows - 1) in place, and the AdaGrad update along the mean where param is not null.
struct MomentsFinish {
  const void* mean;
  void* squares;  // or null
  void* param;    // or null
  void* state_sum;
  std::int64_t columns;
  std::int64_t rows;
  AdagradScalars scalars;
};

// Columns of a chunk of rows, added to the sum and the squared deviations of `samples` rows;
// squared norms are added to sq_norms[rows].
inline constexpr std::int64_t accumulated_columns = 2048;  // at most
struct AccumulateColumns {
  Block block;
  void* sum;      // [columns], sum type; overwritten where samples is 0
  void* squares;  // [columns], sum type, or null; likewise
  std::int64_t samples;
  double* sq_norms;
};

// An AdaGrad update of `size` elements; returns the squared norm of grad / grad_scale.
struct AdagradChunk {
  void* param;
  const void* grad;
  void* state_sum;
  std::int64_t size;
  AdagradScalars scalars;
};

// Sums of squares of `size` elements: of the gradient, and of the direction d.
struct SquaresChunk {
  const void* param;
  const void* grad;
  std::int64_t size;
  AdagradScalars scalars;
};
struct Squares {
  double grad;
  double direction;
};

// param -= step * d for `size` elements.
struct ScaledStepChunk {
  void* param;
  const void* grad;
  std::int64_t size;
  double step;
  AdagradScalars scalars;
};

// One sample's contributions to the gradients of `columns` features of a normalisation.
inline constexpr std::int64_t norm_columns = 1024;  // at most
struct NormRows {
  const void* inputs;
  const void* grad_outputs;
  std::int64_t input_stride;  // between positions, or between features where positions are adjacent
  std::int64_t grad_stride;
  const void* mean;  // [positions] or [columns], sum type, or null
  const void* rstd;
  std::int64_t positions;
  std::int64_t columns;
  void* scale;  // [columns], sum type
  void* shift;  // [columns], sum type, or null
};

// `columns` features of all the rows that looked one index up, in the order of their samples.
inline constexpr std::int64_t embedding_columns = 256;  // at most
struct EmbeddingRun {
  const void* grad_outputs;
  const std::int64_t* offsets;  // [positions], of rows in grad_outputs, in elements
  const std::int64_t* samples;  // [positions], ascending
  std::int64_t positions;
  std::int64_t columns;
  std::int64_t batch;      // samples in all
  void* grad;              // [columns], sum type
  void* variance;          // [columns], sum type, or null
  double* sq_norms;        // [batch], added to
  double* inner_products;  // [batch], added to, or null
};

// Adjacent columns of all samples' rows: their sums and counts, and the step along them. Returns
// the squared norm of the step's direction, as does the next.
inline constexpr std::int64_t sparse_columns = 1024;  // at most
struct SparseMeanColumns {
  Block block;
  std::int64_t first;  // column of the parameter
  SparseMeanRule rule;
};

// Entries of adjacent columns, in the order of their samples. The columns that occur get a slot
// each, found by hashing.
inline constexpr std::int64_t sparse_slot_bytes = 24;
struct SparseMeanEntries {
  const std::uint64_t* keys;  // [count], the column in the upper half, the entry in the lower
  std::int64_t count;
  int column_bits;            // the lower bits of the column, in which they differ
  const void* values;         // of entry
  const std::uint32_t* rows;  // sample of entry
  std::uint32_t* table;       // [4 slots]: scratch
  void* slots;                // [slots] of sparse_slot_bytes, for columns that may occur: scratch
  SparseMeanRule rule;
};

struct KernelTable {
  // The products sweep of one block runs interleaved with the first sweep of another, which hides
  // the memory's latency; either may be null. Blocks have equal numbers of rows.
  void (*moments[element_types])(const MomentsSweep*, const ProductsSweep*);
  void (*merge[element_types])(const MomentsMerge&);
  void (*finish[element_types])(const MomentsFinish&);
  void (*accumulate[element_types])(const AccumulateColumns&);
  double (*adagrad[element_types])(const AdagradChunk&);
  Squares (*squares[element_types])(const SquaresChunk&);
  void (*scaled_step[element_types])(const ScaledStepChunk&);
  double (*read)(const void* data, std::int64_t bytes);
  ProductKernels products[element_types];
  void (*subtract_square[element_types])(const SubtractSquare&);
  void (*norm_by_position[element_types])(const NormRows&);
  void (*norm_by_feature[element_types])(const NormRows&);
  void (*norm_planes[element_types])(const NormRows&);
  void (*embedding_run[element_types])(const EmbeddingRun&);
  double (*sparse_mean_columns[element_types])(const SparseMeanColumns&);
  double (*sparse_mean_entries[element_types])(const SparseMeanEntries&);
};

const KernelTable& kernels();

}  // namespace adak::cpu
