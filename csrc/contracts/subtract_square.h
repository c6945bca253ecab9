// A sum of squares that becomes one of squared deviations.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// squares = max(0, squares - scale * grad^2).
struct SubtractSquare {
  const void* grad;  // [size], float or double
  void* squares;
  std::int64_t size;
  double scale;
};
struct SubtractSquareArgs {
  SubtractSquare values;
  ElementType type;
  int threads;
};
void subtract_square(const SubtractSquareArgs& args);

// What an instruction set provides, for float and double.
struct SubtractSquareLoops {
  void (*run[element_types])(const SubtractSquare&);
};
ADAK_LOOPS(SubtractSquareLoops, subtract_square_loops)

}  // namespace cpu
}  // namespace adak
