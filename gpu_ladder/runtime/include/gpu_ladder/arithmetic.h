// Arithmetic that is exact by IEEE 754 or by its definition, and so has the same bits on the host
// as on a device. Approximations such as rsqrtf or __expf are left out.
#pragma once

#include <math.h>

#include <bit>
#include <cstdint>
#include <type_traits>

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double a) { return 1.0 / a; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }

inline int __popc(unsigned value) { return std::popcount(value); }
inline int __popcll(unsigned long long value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __clzll(long long value) {
  return std::countl_zero(static_cast<unsigned long long>(value));
}
// The place of the lowest bit, counted from 1; 0: there is none.
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((std::uint64_t{a} * b) >> 32);
}

// Of two of the same type; of floating numbers, the one that is a number.
#define GPU_LADDER_EXTREME(name, comparison, of_float, of_double) \
  template <class T>                                              \
    requires std::is_arithmetic_v<T>                              \
  inline T name(T a, std::type_identity_t<T> b) {                 \
    if constexpr (std::is_same_v<T, float>)                       \
      return of_float(a, b);                                      \
    else if constexpr (std::is_same_v<T, double>)                 \
      return of_double(a, b);                                     \
    else                                                          \
      return b comparison a ? b : a;                              \
  }
GPU_LADDER_EXTREME(min, <, fminf, fmin)
GPU_LADDER_EXTREME(max, >, fmaxf, fmax)
#undef GPU_LADDER_EXTREME
