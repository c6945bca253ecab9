// Numbers by which the drivers cut their work.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace adak::cpu {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t value, std::int64_t to) {
  return ceil_div(value, to) * to;
}
inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// Of the type in which elements are summed.
inline std::int64_t sum_bytes(ElementType type) { return type == ElementType::float64 ? 8 : 4; }

}  // namespace adak::cpu
