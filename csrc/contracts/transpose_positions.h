// Positions of a layer's samples, turned for a product, and their sums.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// Strides are in elements; features are adjacent.
struct TransposePositionsArgs {
  const void* values;  // [samples, positions, features]
  ElementType type;
  std::int64_t samples;
  std::int64_t positions;
  std::int64_t features;
  std::int64_t sample_stride;
  std::int64_t position_stride;
  void* transposed;  // [samples, features, positions]; null: not wanted
  void* sums;        // over positions: [samples, features], sum type; null: not wanted
  int threads;
};
void transpose_positions(const TransposePositionsArgs& args);

// What an instruction set provides.

// Some features of one sample.
inline constexpr std::int64_t transposed_columns = 128;  // at most
struct PositionsTile {
  const void* values;
  std::int64_t stride;  // between positions
  std::int64_t positions;
  std::int64_t columns;
  void* transposed;  // [columns, positions], or null
  void* sums;        // [columns], sum type, or null
};

struct TransposePositionsLoops {
  void (*run[element_types])(const PositionsTile&);
};
ADAK_LOOPS(TransposePositionsLoops, transpose_positions_loops)

}  // namespace cpu
}  // namespace adak
