// The step along the aggregate of sparse gradients.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// A step along the aggregate of sparse per-sample gradients. Of a coordinate j that n_j samples
// touch, with sum_j of their gradients' entries,
//     d = (sum_j + n_j (offset_j + ridge / probability_j * param_j)) / divisor,
// param_j -= lr * d, or with state_sum AdaGrad's rule along d. Other coordinates are not looked at.
struct SparseMeanRule {
  void* param;                // [features]
  void* state_sum;            // [features]; null: no AdaGrad
  const void* offset;         // [features], sum type; null: zeros
  const void* probabilities;  // [features], sum type; null: no ridge
  double lr;
  double eps;
  double ridge;
  double divisor;  // 0: n_j
};

// Rows of samples: n_j are the samples whose entry j is not zero.
struct SparseMeanDenseArgs {
  const void* grads;  // [samples, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t samples;
  std::int64_t features;
  std::int64_t row_stride;
  SparseMeanRule rule;
  void* workspace;  // sparse_mean_dense_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t sparse_mean_dense_workspace(const SparseMeanDenseArgs& args);
// Returns the squared norm of d, as does the next.
double sparse_mean_dense_step(const SparseMeanDenseArgs& args);

// Stored entries: n_j are the samples that have an entry at j, whatever its value. Entries of one
// sample at the same column add up, and count once. At most 2^30 entries, 2^32 - 1 samples
// and 2^32 features.
struct SparseMeanCsrArgs {
  const void* row_starts;  // [samples + 1], ascending from 0 to entries
  const void* columns;     // [entries], each from 0 to features - 1
  bool wide_indices;       // of both: int64, else int32
  const void* values;      // [entries]
  ElementType type;
  std::int64_t samples;
  std::int64_t entries;
  std::int64_t features;
  SparseMeanRule rule;
  void* workspace;  // sparse_mean_csr_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t sparse_mean_csr_workspace(const SparseMeanCsrArgs& args);
// False, and nothing written, where row starts do not ascend so or a column is outside.
bool sparse_mean_csr_step(const SparseMeanCsrArgs& args, double* sq_norm);

// What an instruction set provides.

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

struct SparseMeanLoops {
  double (*columns[element_types])(const SparseMeanColumns&);
  double (*entries[element_types])(const SparseMeanEntries&);
};
ADAK_LOOPS(SparseMeanLoops, sparse_mean_loops)

}  // namespace cpu
}  // namespace adak
