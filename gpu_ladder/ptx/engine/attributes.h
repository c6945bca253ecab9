// The bits that modifiers set in an instruction. instructions.py has the same numbers.
#pragma once

#include <cstdint>

#include "program.h"

namespace gpu_ladder::ptx {

// Arithmetic.
enum class Rounding : std::uint32_t { nearest = 0, zero = 1, down = 2, up = 3, nearest_away = 4 };
constexpr std::uint32_t kRoundingMask = 0x7;
constexpr std::uint32_t kIntegral = 1u << 3;
constexpr std::uint32_t kFlush = 1u << 4;      // .ftz
constexpr std::uint32_t kSaturate = 1u << 5;   // .sat
constexpr std::uint32_t kNan = 1u << 6;        // .NaN
constexpr std::uint32_t kXorSign = 1u << 7;    // .xorsign.abs
constexpr std::uint32_t kRelu = 1u << 8;       // .relu
constexpr std::uint32_t kNegated = 1u << 9;    // the predicate operand is written with !
constexpr std::uint32_t kCombineShift = 10;    // 1 and, 2 or, 3 xor
constexpr std::uint32_t kCompareShift = 12;    // 5 bits
constexpr std::uint32_t kCarryOut = 1u << 17;  // .cc
constexpr std::uint32_t kWrap = 1u << 18;      // shf.wrap
constexpr std::uint32_t kShiftAmount = 1u << 19;
constexpr std::uint32_t kModeShift = 20;       // 4 bits: prmt, shfl, testp, vote, bar
constexpr std::uint32_t kWidthShift = 24;      // log2 of the bytes of the destination register
constexpr std::uint32_t kCarryIn = 1u << 27;   // addc, subc, madc
constexpr std::uint32_t kAbsolute = 1u << 28;  // .abs of the three-operand min and max
constexpr std::uint32_t kSatFinite = 1u << 29;

// Memory.
enum class StateSpace : std::uint32_t { generic, global, shared, local, constant, parameter };
constexpr std::uint32_t kSpaceMask = 0x7;
constexpr std::uint32_t kVectorShift = 3;  // 3 bits: elements minus one
constexpr std::uint32_t kVectorMask = 0x7;
constexpr std::uint32_t kOrderShift = 6;  // 3 bits
enum class Order : std::uint32_t { weak, relaxed, acquire, release, acquire_release, is_volatile };
constexpr std::uint32_t kOrderMask = 0x7;
constexpr std::uint32_t kAddress32 = 1u << 9;  // the address is in a 32-bit register
constexpr std::uint32_t kTransposed = 1u << 10;

inline Rounding rounding(const Instruction& instruction) {
  return static_cast<Rounding>(instruction.attributes & kRoundingMask);
}
inline StateSpace state_space(const Instruction& instruction) {
  return static_cast<StateSpace>(instruction.attributes & kSpaceMask);
}
inline Order memory_order(const Instruction& instruction) {
  return static_cast<Order>((instruction.attributes >> kOrderShift) & kOrderMask);
}
inline std::uint32_t mode(const Instruction& instruction) {
  return (instruction.attributes >> kModeShift) & 0xf;
}

}  // namespace gpu_ladder::ptx
