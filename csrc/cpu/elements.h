// The 16-bit element types, as bits: arithmetic happens after widening to float.
#pragma once

#include <cstdint>

namespace adak::cpu {

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

}  // namespace adak::cpu
