// Floating-point formats, rounding and NaN as CUDA defines them.
#pragma once

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "attributes.h"

namespace gpu_ladder::ptx {

// 16-bit formats are their bits; arithmetic on them goes through wider numbers.
struct Half {
  std::uint16_t bits;
};
struct Brain {
  std::uint16_t bits;
};
struct Tensor32 {  // tf32: float32 with the low 13 bits of no meaning
  std::uint32_t bits;
};

constexpr std::uint32_t kNanBits32 = 0x7fffffffu;
constexpr std::uint16_t kNanBits16 = 0x7fffu;

inline float canonical(float value) {
  return value != value ? std::bit_cast<float>(kNanBits32) : value;
}
inline double canonical(double value) { return value; }

inline float flush(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  return (bits & 0x7f800000u) == 0 ? std::bit_cast<float>(bits & 0x80000000u) : value;
}
inline double flush(double value) {
  return std::fabs(value) < std::numeric_limits<double>::min() ? std::copysign(0.0, value) : value;
}

// Clamps to [0, 1]; NaN becomes +0.
template <class T>
inline T saturate(T value) {
  return value > T(0) ? (value < T(1) ? value : T(1)) : T(0);
}

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(Half value) {
  return canonical(static_cast<float>(std::bit_cast<_Float16>(value.bits)));
}
inline float widen(Brain value) {
  return canonical(std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16));
}
inline float widen(Tensor32 value) { return std::bit_cast<float>(value.bits & 0xffffe000u); }

// Rounds an exactly known value to a binary format of `precision` bits, smallest exponent
// `minimum` (of the last bit of a subnormal number) and largest finite number `largest`.
inline long double round_to(long double value, int precision, int minimum, long double largest,
                            Rounding how) {
  if (value == 0 || std::isnan(value) || std::isinf(value)) return value;
  int exponent = 0;
  std::frexp(value, &exponent);
  const int last = std::max(exponent - precision, minimum);
  const long double scaled = std::ldexp(value, -last);
  long double whole = std::floor(scaled);
  const long double rest = scaled - whole;  // in [0, 1), exact
  bool up = false;
  switch (how) {
    case Rounding::nearest:
      up = rest > 0.5L || (rest == 0.5L && std::fmod(whole, 2.0L) != 0);
      break;
    case Rounding::nearest_away:
      up = rest > 0.5L || (rest == 0.5L && value > 0);
      break;
    case Rounding::zero:
      up = value < 0 && rest > 0;
      break;
    case Rounding::down:
      break;
    case Rounding::up:
      up = rest > 0;
      break;
  }
  if (up) whole += 1;
  long double rounded = std::ldexp(whole, last);
  if (rounded == 0) return std::copysign(0.0L, value);
  if (std::fabs(rounded) > largest) {
    const bool stays = how == Rounding::zero || (how == Rounding::down && value > 0) ||
                       (how == Rounding::up && value < 0);
    rounded = std::copysign(stays ? largest : std::numeric_limits<long double>::infinity(), value);
  }
  return rounded;
}

inline Half to_half(long double value, Rounding how) {
  if (std::isnan(value)) return {kNanBits16};
  const auto rounded = static_cast<float>(round_to(value, 11, -24, 65504.0L, how));
  return {std::bit_cast<std::uint16_t>(static_cast<_Float16>(rounded))};
}
inline Brain to_brain(long double value, Rounding how) {
  if (std::isnan(value)) return {kNanBits16};
  const auto rounded = static_cast<float>(round_to(value, 8, -133, 0x1.FEp127L, how));
  return {static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(rounded) >> 16)};
}

// To nearest even, from a float: the common case, without loops.
inline Half nearest_half(float value) {
  if (value != value) return {kNanBits16};
  return {std::bit_cast<std::uint16_t>(static_cast<_Float16>(value))};
}
inline Brain nearest_brain(float value) {
  if (value != value) return {kNanBits16};
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// A float such that rounding it once more to fewer than 23 bits equals rounding `value` directly:
// truncated, with the last bit set where anything was lost.
inline float odd_float(double value) {
  float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || value != value) return nearest;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) bits -= 1;
  return std::bit_cast<float>(bits | 1u);
}

// a * b + c of 16-bit numbers: the product is exact in double, the sum is rounded to odd.
inline double odd_fma(double a, double b, double c) {
  const double product = a * b;
  const double sum = product + c;
  if (!std::isfinite(sum)) return sum;
  const double back = sum - product;
  const double error = (product - (sum - back)) + (c - back);
  if (error == 0) return sum;
  std::uint64_t bits = std::bit_cast<std::uint64_t>(sum);
  if ((bits & 1u) == 0) bits += (error > 0) == (sum > 0) ? 1 : static_cast<std::uint64_t>(-1);
  return std::bit_cast<double>(bits);
}

// Sets the rounding mode of the host while it lives. Files that use it are compiled with
// -frounding-math, and the loops inside read and write memory the compiler cannot see through.
class RoundingScope {
 public:
  explicit RoundingScope(Rounding how) : active_(how != Rounding::nearest) {
    if (!active_) return;
    std::fesetround(how == Rounding::zero ? FE_TOWARDZERO
                    : how == Rounding::up ? FE_UPWARD
                                          : FE_DOWNWARD);
  }
  ~RoundingScope() {
    if (active_) std::fesetround(FE_TONEAREST);
  }
  RoundingScope(const RoundingScope&) = delete;
  RoundingScope& operator=(const RoundingScope&) = delete;

 private:
  bool active_;
};

// IEEE 754-2019 minimumNumber and maximumNumber, or with `propagate` minimum and maximum; -0 < +0.
template <bool is_maximum, class T>
inline T extremum(T a, T b, bool propagate) {
  if (a != a || b != b) {
    if (propagate || (a != a && b != b)) return canonical(std::numeric_limits<T>::quiet_NaN());
    return a != a ? b : a;
  }
  if (a == b) return std::signbit(a) == is_maximum ? b : a;
  return (a < b) == is_maximum ? b : a;
}

}  // namespace gpu_ladder::ptx
