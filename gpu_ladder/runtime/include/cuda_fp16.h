// half: IEEE 754's binary16. Arithmetic on it is left out: kernels convert to float.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

struct __half {
  std::uint16_t __x;
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

inline unsigned short __half_as_ushort(__half value) { return value.__x; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

inline float __half2float(__half value) {
  const std::uint32_t sign = std::uint32_t{value.__x & 0x8000u} << 16;
  const std::uint32_t magnitude = value.__x & 0x7fffu;
  if (magnitude > 0x7c00u) return std::bit_cast<float>(0x7fffffffu);  // the one NaN of the device
  if (magnitude == 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u);
  // Shifted into place the exponent is too small by 127 - 15; the product is exact, and brings
  // subnormal numbers into the normal range.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled));
}

namespace gpu_ladder {

// The magnitude of a float cut to a half's bits, and whether what was cut off is more, or less,
// than half of the last of them.
struct HalfBits {
  std::uint32_t kept;
  std::uint32_t cut;   // 0 where it is exact
  std::uint32_t half;  // what `cut` is compared with
};
inline HalfBits half_bits(std::uint32_t magnitude) {
  constexpr std::uint32_t smallest_normal = 113u << 23;
  if (magnitude >= smallest_normal) {
    const std::uint32_t rebased = magnitude - (112u << 23);
    return {rebased >> 13, rebased & 0x1fffu, 0x1000u};
  }
  // Subnormal: a multiple of 2^-24. Numbers below 2^-25 keep one bit that says they are not zero.
  const std::uint32_t exponent = magnitude >> 23;
  const std::uint32_t shift = 126u - exponent;
  if (exponent == 0 || shift > 25) return {0, magnitude == 0 ? 0u : 1u, 2u};
  const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  return {mantissa >> shift, mantissa & ((1u << shift) - 1), 1u << (shift - 1)};
}

}  // namespace gpu_ladder

// To the nearest, ties to even.
inline __half __float2half_rn(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return {0x7fff};
  constexpr std::uint32_t first_infinite = 0x477ff000u;  // 65520, halfway from 65504 to 65536
  if (magnitude >= first_infinite) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  const auto [kept, cut, half] = gpu_ladder::half_bits(magnitude);
  const bool up = cut > half || (cut == half && (kept & 1u) != 0);
  return {static_cast<std::uint16_t>(sign | (kept + (up ? 1u : 0u)))};
}
inline __half __float2half(float value) { return __float2half_rn(value); }

inline float2 __half22float2(__half2 value) {
  return {__half2float(value.x), __half2float(value.y)};
}
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline __half2 __float22half2_rn(float2 value) { return __floats2half2_rn(value.x, value.y); }
inline float __low2float(__half2 value) { return __half2float(value.x); }
inline float __high2float(__half2 value) { return __half2float(value.y); }

// Shuffles take it.
void shuffles_as_bits(__half);
void shuffles_as_bits(__half2);
