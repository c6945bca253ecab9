// Moments of rows that come in chunks.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// A chunk of rows added to the running sum and squared deviations of the rows before it.
struct AccumulateMomentsArgs {
  const void* chunk;  // [rows, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t rows;
  std::int64_t features;
  std::int64_t row_stride;
  std::int64_t samples;  // rows before it; 0: sum and squares are overwritten
  void* sum;             // [features], sum type
  void* squares;         // [features], sum type; null: not measured
  double* sq_norms;      // [rows]
  void* workspace;       // accumulate_moments_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t accumulate_moments_workspace(const AccumulateMomentsArgs& args);
void accumulate_moments(const AccumulateMomentsArgs& args);

// What an instruction set provides.

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

struct AccumulateLoops {
  void (*columns[element_types])(const AccumulateColumns&);
};
ADAK_LOOPS(AccumulateLoops, accumulate_loops)

}  // namespace cpu

namespace cuda {

// As cpu::AccumulateMomentsArgs, for float32, bfloat16 and float16; all pointers are the device's.
struct AccumulateMomentsArgs {
  const void* chunk;  // [rows, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t rows;
  std::int64_t features;
  std::int64_t row_stride;
  std::int64_t samples;  // rows before it; 0: sum and squares are overwritten
  float* sum;            // [features]
  float* squares;        // [features]; null: not measured
  double* sq_norms;      // [rows]
};
void accumulate_moments(const AccumulateMomentsArgs& args, const Stream& stream,
                        const Allocate& allocate);

}  // namespace cuda
}  // namespace adak
