// The AVX-512 intrinsics that avx512.cpp uses, lane by lane in plain C++, so that its kernels can
// be tested on a machine without AVX-512 (CMake's ADAK_EMULATE_AVX512). They do what Intel's guide
// says the instructions do; only the speed differs. An intrinsic that is missing here fails to
// compile.
#pragma once

#include <immintrin.h>
#include <math.h>

#include <cstdint>

namespace adak::cpu::avx512 {
namespace {
namespace emulated {

template <class To, class From>
inline To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, from);
}

struct Floats {
  float lane[16];
};
struct Doubles {
  double lane[8];
};
struct Words {
  std::uint32_t lane[16];
};
struct Halves {
  std::uint16_t lane[16];
};

// Applies `operation` to each lane of vectors, which come as __m512, __m512d or __m512i.
template <class Lanes, class Operation, class... Vectors>
inline auto each(Operation&& operation, const Vectors&... vectors) {
  Lanes out;
  constexpr int count = static_cast<int>(sizeof(out.lane) / sizeof(out.lane[0]));
  for (int i = 0; i < count; ++i) out.lane[i] = operation(bits<Lanes>(vectors).lane[i]...);
  return out;
}
template <class Operation, class... Vectors>
inline __m512 floats(Operation&& operation, const Vectors&... vectors) {
  return bits<__m512>(each<Floats>(operation, vectors...));
}
template <class Operation, class... Vectors>
inline __m512d doubles(Operation&& operation, const Vectors&... vectors) {
  return bits<__m512d>(each<Doubles>(operation, vectors...));
}
template <class Operation, class... Vectors>
inline __m512i words(Operation&& operation, const Vectors&... vectors) {
  return bits<__m512i>(each<Words>(operation, vectors...));
}

// Lanes whose bit is not set are zero when loaded, and left alone when stored: not even touched.
template <class Lanes, class Mask, class T>
inline Lanes load(Mask mask, const T* from) {
  Lanes out{};
  constexpr int count = static_cast<int>(sizeof(out.lane) / sizeof(out.lane[0]));
  for (int i = 0; i < count; ++i)
    if (mask >> i & 1) __builtin_memcpy(&out.lane[i], from + i, sizeof(T));
  return out;
}
template <class Lanes, class Mask, class T, class Vector>
inline void store(T* into, Mask mask, const Vector& vector) {
  const Lanes values = bits<Lanes>(vector);
  constexpr int count = static_cast<int>(sizeof(values.lane) / sizeof(values.lane[0]));
  for (int i = 0; i < count; ++i)
    if (mask >> i & 1) __builtin_memcpy(into + i, &values.lane[i], sizeof(T));
}

inline constexpr std::uint16_t all16 = 0xffff;
inline constexpr std::uint8_t all8 = 0xff;

inline __m512 set1_ps(float x) {
  return floats([x](float) { return x; }, __m512{});
}
inline __m512d set1_pd(double x) {
  return doubles([x](double) { return x; }, __m512d{});
}
inline __m512i set1_epi32(int x) {
  return words([x](std::uint32_t) { return static_cast<std::uint32_t>(x); }, __m512i{});
}

inline __m512 maskz_loadu_ps(__mmask16 m, const float* p) {
  return bits<__m512>(load<Floats>(m, p));
}
inline __m512d maskz_loadu_pd(__mmask8 m, const double* p) {
  return bits<__m512d>(load<Doubles>(m, p));
}
template <class T>
inline __m256i maskz_loadu_epi16(__mmask16 m, const T* p) {
  return bits<__m256i>(load<Halves>(m, p));
}
inline __m512 loadu_ps(const float* p) { return maskz_loadu_ps(all16, p); }
inline __m512d loadu_pd(const double* p) { return maskz_loadu_pd(all8, p); }
inline void mask_storeu_ps(float* p, __mmask16 m, __m512 x) { store<Floats>(p, m, x); }
inline void mask_storeu_pd(double* p, __mmask8 m, __m512d x) { store<Doubles>(p, m, x); }
template <class T>
inline void mask_storeu_epi16(T* p, __mmask16 m, __m256i x) {
  store<Halves>(p, m, x);
}
inline void storeu_ps(float* p, __m512 x) { mask_storeu_ps(p, all16, x); }
inline void storeu_pd(double* p, __m512d x) { mask_storeu_pd(p, all8, x); }

inline __m512 add_ps(__m512 a, __m512 b) {
  return floats([](float x, float y) { return x + y; }, a, b);
}
inline __m512 sub_ps(__m512 a, __m512 b) {
  return floats([](float x, float y) { return x - y; }, a, b);
}
inline __m512 mul_ps(__m512 a, __m512 b) {
  return floats([](float x, float y) { return x * y; }, a, b);
}
inline __m512 div_ps(__m512 a, __m512 b) {
  return floats([](float x, float y) { return x / y; }, a, b);
}
inline __m512 sqrt_ps(__m512 a) {
  return floats([](float x) { return sqrtf(x); }, a);
}
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return floats([](float x, float y, float z) { return fmaf(x, y, z); }, a, b, c);
}
inline __m512d add_pd(__m512d a, __m512d b) {
  return doubles([](double x, double y) { return x + y; }, a, b);
}
inline __m512d sub_pd(__m512d a, __m512d b) {
  return doubles([](double x, double y) { return x - y; }, a, b);
}
inline __m512d mul_pd(__m512d a, __m512d b) {
  return doubles([](double x, double y) { return x * y; }, a, b);
}
inline __m512d div_pd(__m512d a, __m512d b) {
  return doubles([](double x, double y) { return x / y; }, a, b);
}
inline __m512d sqrt_pd(__m512d a) {
  return doubles([](double x) { return sqrt(x); }, a);
}
inline __m512d fmadd_pd(__m512d a, __m512d b, __m512d c) {
  return doubles([](double x, double y, double z) { return fma(x, y, z); }, a, b, c);
}

// The second operand where either is not a number.
inline __m512 max_ps(__m512 a, __m512 b) {
  return floats([](float x, float y) { return x > y ? x : y; }, a, b);
}
inline __m512d max_pd(__m512d a, __m512d b) {
  return doubles([](double x, double y) { return x > y ? x : y; }, a, b);
}
// Lane i of the result is lane `from(i) % count` of a, or of b where from(i) is count or more.
template <class Lanes, class Vector, class From>
inline Vector pick(const Vector& a, const Vector& b, const From& from) {
  Lanes out;
  constexpr int count = static_cast<int>(sizeof(out.lane) / sizeof(out.lane[0]));
  for (int i = 0; i < count; ++i) {
    const int place = from(i);
    out.lane[i] = bits<Lanes>(place < count ? a : b).lane[place % count];
  }
  return bits<Vector>(out);
}
// Within each quarter of a vector, from a and b in turn.
inline __m512 unpacklo_ps(__m512 a, __m512 b) {
  return pick<Floats>(a, b, [](int i) { return i / 4 * 4 + i % 4 / 2 + i % 2 * 16; });
}
inline __m512 unpackhi_ps(__m512 a, __m512 b) {
  return pick<Floats>(a, b, [](int i) { return i / 4 * 4 + 2 + i % 4 / 2 + i % 2 * 16; });
}
inline __m512d unpacklo_pd(__m512d a, __m512d b) {
  return pick<Doubles>(a, b, [](int i) { return i / 2 * 2 + i % 2 * 8; });
}
inline __m512d unpackhi_pd(__m512d a, __m512d b) {
  return pick<Doubles>(a, b, [](int i) { return i / 2 * 2 + 1 + i % 2 * 8; });
}
// Within each quarter, two lanes of a and two of b, each chosen by two bits.
inline __m512 shuffle_ps(__m512 a, __m512 b, int choice) {
  return pick<Floats>(
      a, b, [choice](int i) { return i / 4 * 4 + (choice >> i % 4 * 2 & 3) + i % 4 / 2 * 16; });
}
// Two quarters of a and two of b, each chosen by two bits.
inline __m512 shuffle_f32x4(__m512 a, __m512 b, int choice) {
  return pick<Floats>(
      a, b, [choice](int i) { return (choice >> i / 4 * 2 & 3) * 4 + i % 4 + i / 8 * 16; });
}
inline __m512d shuffle_f64x2(__m512d a, __m512d b, int choice) {
  return pick<Doubles>(
      a, b, [choice](int i) { return (choice >> i / 2 * 2 & 3) * 2 + i % 2 + i / 4 * 8; });
}

using Word = std::uint32_t;
inline __m512i add_epi32(__m512i a, __m512i b) {
  return words([](Word x, Word y) { return x + y; }, a, b);
}
inline __m512i and_si512(__m512i a, __m512i b) {
  return words([](Word x, Word y) { return x & y; }, a, b);
}
inline __m512i or_si512(__m512i a, __m512i b) {
  return words([](Word x, Word y) { return x | y; }, a, b);
}
inline __m512i srli_epi32(__m512i a, unsigned n) {
  return words([n](Word x) { return x >> n; }, a);
}
inline __m512i slli_epi32(__m512i a, unsigned n) {
  return words([n](Word x) { return x << n; }, a);
}
inline __m512i mask_blend_epi32(__mmask16 m, __m512i a, __m512i b) {
  Words out = bits<Words>(a);
  for (int i = 0; i < 16; ++i)
    if (m >> i & 1) out.lane[i] = bits<Words>(b).lane[i];
  return bits<__m512i>(out);
}
// The comparisons in use: greater, and unordered, which holds where either is not a number.
template <class Lanes, class Vector>
inline unsigned compare(const Vector& a, const Vector& b, int predicate) {
  if (predicate != _CMP_UNORD_Q && predicate != _CMP_GT_OQ) throw predicate;
  const Lanes x = bits<Lanes>(a);
  const Lanes y = bits<Lanes>(b);
  constexpr int count = static_cast<int>(sizeof(x.lane) / sizeof(x.lane[0]));
  unsigned mask = 0;
  for (int i = 0; i < count; ++i)
    if (predicate == _CMP_GT_OQ ? x.lane[i] > y.lane[i]
                                : __builtin_isunordered(x.lane[i], y.lane[i]))
      mask |= 1u << i;
  return mask;
}
inline __mmask16 cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  return static_cast<__mmask16>(compare<Floats>(a, b, predicate));
}
inline __mmask8 cmp_pd_mask(__m512d a, __m512d b, int predicate) {
  return static_cast<__mmask8>(compare<Doubles>(a, b, predicate));
}
inline __m512 maskz_mov_ps(__mmask16 m, __m512 a) {
  Floats out = bits<Floats>(a);
  for (int i = 0; i < 16; ++i)
    if (!(m >> i & 1)) out.lane[i] = 0;
  return bits<__m512>(out);
}
inline __m512d maskz_mov_pd(__mmask8 m, __m512d a) {
  Doubles out = bits<Doubles>(a);
  for (int i = 0; i < 8; ++i)
    if (!(m >> i & 1)) out.lane[i] = 0;
  return bits<__m512d>(out);
}

inline __m512i cvtepu16_epi32(__m256i a) {
  Words out;
  for (int i = 0; i < 16; ++i) out.lane[i] = bits<Halves>(a).lane[i];
  return bits<__m512i>(out);
}
inline __m256i cvtepi32_epi16(__m512i a) {
  Halves out;
  for (int i = 0; i < 16; ++i) out.lane[i] = static_cast<std::uint16_t>(bits<Words>(a).lane[i]);
  return bits<__m256i>(out);
}
inline __m512d cvtps_pd(__m256 a) {
  struct Eight {
    float lane[8];
  };
  Doubles out;
  for (int i = 0; i < 8; ++i) out.lane[i] = bits<Eight>(a).lane[i];
  return bits<__m512d>(out);
}

// The halves of a wide vector, and the conversions that F16C has for half of the width.
template <class Narrow, class Wide>
struct Pair {
  Narrow half[2];
  static_assert(2 * sizeof(Narrow) == sizeof(Wide));
};
inline __m256 castps512_ps256(__m512 a) { return bits<Pair<__m256, __m512>>(a).half[0]; }
inline __m256 extractf32x8_ps(__m512 a, int i) { return bits<Pair<__m256, __m512>>(a).half[i]; }
inline __m256d castpd512_pd256(__m512d a) { return bits<Pair<__m256d, __m512d>>(a).half[0]; }
inline __m256d extractf64x4_pd(__m512d a, int i) { return bits<Pair<__m256d, __m512d>>(a).half[i]; }
inline __m512 castsi512_ps(__m512i a) { return bits<__m512>(a); }
inline __m512i castps_si512(__m512 a) { return bits<__m512i>(a); }
inline __m512 cvtph_ps(__m256i a) {
  const auto halves = bits<Pair<__m128i, __m256i>>(a);
  return bits<__m512>(
      Pair<__m256, __m512>{_mm256_cvtph_ps(halves.half[0]), _mm256_cvtph_ps(halves.half[1])});
}
inline __m256i cvtps_ph(__m512 a, int) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const auto halves = bits<Pair<__m256, __m512>>(a);
  return bits<__m256i>(Pair<__m128i, __m256i>{_mm256_cvtps_ph(halves.half[0], nearest),
                                              _mm256_cvtps_ph(halves.half[1], nearest)});
}

}  // namespace emulated
}  // namespace
}  // namespace adak::cpu::avx512

// From here on the names are ours.
#define _mm256_mask_storeu_epi16 emulated::mask_storeu_epi16
#define _mm256_maskz_loadu_epi16 emulated::maskz_loadu_epi16
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_add_pd emulated::add_pd
#define _mm512_add_ps emulated::add_ps
#define _mm512_and_si512 emulated::and_si512
#define _mm512_castpd512_pd256 emulated::castpd512_pd256
#define _mm512_castps512_ps256 emulated::castps512_ps256
#define _mm512_castps_si512 emulated::castps_si512
#define _mm512_castsi512_ps emulated::castsi512_ps
#define _mm512_cmp_pd_mask emulated::cmp_pd_mask
#define _mm512_cmp_ps_mask emulated::cmp_ps_mask
#define _mm512_cvtepi32_epi16 emulated::cvtepi32_epi16
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_cvtps_pd emulated::cvtps_pd
#define _mm512_cvtps_ph emulated::cvtps_ph
#define _mm512_div_pd emulated::div_pd
#define _mm512_div_ps emulated::div_ps
#define _mm512_extractf32x8_ps emulated::extractf32x8_ps
#define _mm512_extractf64x4_pd emulated::extractf64x4_pd
#define _mm512_fmadd_pd emulated::fmadd_pd
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_loadu_pd emulated::loadu_pd
#define _mm512_loadu_ps emulated::loadu_ps
#define _mm512_mask_blend_epi32 emulated::mask_blend_epi32
#define _mm512_mask_storeu_pd emulated::mask_storeu_pd
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_maskz_loadu_pd emulated::maskz_loadu_pd
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_maskz_mov_pd emulated::maskz_mov_pd
#define _mm512_maskz_mov_ps emulated::maskz_mov_ps
#define _mm512_max_pd emulated::max_pd
#define _mm512_max_ps emulated::max_ps
#define _mm512_mul_pd emulated::mul_pd
#define _mm512_mul_ps emulated::mul_ps
#define _mm512_or_si512 emulated::or_si512
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_set1_pd emulated::set1_pd
#define _mm512_set1_ps emulated::set1_ps
#define _mm512_shuffle_f32x4 emulated::shuffle_f32x4
#define _mm512_shuffle_f64x2 emulated::shuffle_f64x2
#define _mm512_shuffle_ps emulated::shuffle_ps
#define _mm512_slli_epi32 emulated::slli_epi32
#define _mm512_sqrt_pd emulated::sqrt_pd
#define _mm512_sqrt_ps emulated::sqrt_ps
#define _mm512_srli_epi32 emulated::srli_epi32
#define _mm512_storeu_pd emulated::storeu_pd
#define _mm512_storeu_ps emulated::storeu_ps
#define _mm512_sub_pd emulated::sub_pd
#define _mm512_sub_ps emulated::sub_ps
#define _mm512_unpackhi_pd emulated::unpackhi_pd
#define _mm512_unpackhi_ps emulated::unpackhi_ps
#define _mm512_unpacklo_pd emulated::unpacklo_pd
#define _mm512_unpacklo_ps emulated::unpacklo_ps
