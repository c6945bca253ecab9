// Moments of the rows of G, and optionally an AdaGrad update along their mean.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// mean, variance, squared norms and inner products with the mean of the rows of G, and optionally
// an AdaGrad update along the mean.
struct BatchMomentsArgs {
  const void* grads;  // [samples, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t samples;
  std::int64_t features;
  std::int64_t row_stride;
  void* mean;              // [features], sum type
  void* variance;          // [features], sum type; null: not measured
  double* sq_norms;        // [samples]
  double* inner_products;  // [samples]; null: not measured
  void* param;             // [features]; null: no update
  void* state_sum;         // [features]
  AdagradScalars scalars;
  void* workspace;  // batch_moments_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t batch_moments_workspace(const BatchMomentsArgs& args);
void batch_moments(const BatchMomentsArgs& args);

// What an instruction set provides.

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

struct MomentsLoops {
  // The products sweep of one block runs interleaved with the first sweep of another, which hides
  // the memory's latency; either may be null. Blocks have equal numbers of rows.
  void (*sweep[element_types])(const MomentsSweep*, const ProductsSweep*);
  void (*merge[element_types])(const MomentsMerge&);
  void (*finish[element_types])(const MomentsFinish&);
};
ADAK_LOOPS(MomentsLoops, moments_loops)

}  // namespace cpu

namespace cuda {

// As cpu::BatchMomentsArgs, for float32, bfloat16 and float16; all pointers are the device's.
struct BatchMomentsArgs {
  const void* grads;  // [samples, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t samples;
  std::int64_t features;
  std::int64_t row_stride;
  float* mean;             // [features], aligned to 16
  float* variance;         // [features], aligned to 16; null: not measured
  double* sq_norms;        // [samples]
  double* inner_products;  // [samples]; null: not measured
  void* param;             // [features]; null: no update
  void* state_sum;         // [features]
  AdagradScalars scalars;
};
void batch_moments(const BatchMomentsArgs& args, const Stream& stream, const Allocate& allocate);

}  // namespace cuda
}  // namespace adak
