// Element types: their sizes, and the 16-bit ones as bits (arithmetic happens after widening).
#pragma once

#include <cstdint>

#include "kernels.h"

namespace adak::cpu {

constexpr std::int64_t element_bytes(ElementType type) {
  constexpr std::int64_t bytes[element_types] = {4, 2, 2, 8};
  return bytes[static_cast<int>(type)];
}

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

}  // namespace adak::cpu
