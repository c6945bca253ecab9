// How an op gets its inner loops: every instruction set has a table of them, and its driver takes
// that of the one in use. The drivers beside this file cut an op into tiles and chunks; the loops
// in ops/*.inl work on one of them.
#pragma once

#include <cstdint>

#include "kernels.h"

#define ADAK_DECLARE_TABLE(isa, Loops, name) \
  namespace isa {                            \
  extern const Loops name;                   \
  }
#define ADAK_TABLE_IN_USE(isa, Loops, name) \
  case Isa::isa:                            \
    return isa::name;

// In an op's contract, in namespace adak::cpu: a constant `name` of type Loops is in the namespace
// of each instruction set, where the op's .inl defines it, and name() is the one in use.
#define ADAK_LOOPS(Loops, name)                             \
  ADAK_INSTRUCTION_SETS(ADAK_DECLARE_TABLE, Loops, name)    \
  inline const Loops& name() {                              \
    switch (active_isa()) {                                 \
      ADAK_INSTRUCTION_SETS(ADAK_TABLE_IN_USE, Loops, name) \
      default:                                              \
        return scalar::name;                                \
    }                                                       \
  }

namespace adak::cpu {

// A block of G: `rows` rows of `columns` adjacent elements, `row_stride` elements apart.
struct Block {
  const void* grads;
  std::int64_t row_stride;
  std::int64_t rows;
  std::int64_t columns;
};

}  // namespace adak::cpu
