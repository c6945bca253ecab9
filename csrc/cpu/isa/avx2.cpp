// 256-bit vectors: 8 floats or 4 doubles, 16 registers. Needs AVX2, FMA and F16C.
#include <immintrin.h>

#include "cpu/elements.h"
#include "every_contract.h"

namespace adak::cpu::avx2 {
namespace {

struct VecFloat {
  using Lane = float;
  static constexpr std::int64_t width = 8;
  static constexpr std::int64_t registers = 16;
  __m256 x;

  static __m256i mask(std::int64_t lanes) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)), index);
  }

  static VecFloat fill(double value) { return {_mm256_set1_ps(static_cast<float>(value))}; }

  static VecFloat broadcast(const float* from) { return {_mm256_broadcast_ss(from)}; }
  static VecFloat load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static VecFloat load(const BFloat16* from) { return widen_bfloat16(load_bits(from)); }
  static VecFloat load(const Float16* from) { return {_mm256_cvtph_ps(load_bits(from))}; }
  static VecFloat load(const float* from, std::int64_t lanes) {
    return {_mm256_maskload_ps(from, mask(lanes))};
  }
  static VecFloat load(const BFloat16* from, std::int64_t lanes) {
    return widen_bfloat16(load_bits(from, lanes));
  }
  static VecFloat load(const Float16* from, std::int64_t lanes) {
    return {_mm256_cvtph_ps(load_bits(from, lanes))};
  }

  void store(float* into) const { _mm256_storeu_ps(into, x); }
  void store(BFloat16* into) const { store_bits(into, narrow_bfloat16()); }
  void store(Float16* into) const { store_bits(into, narrow_float16()); }
  void store(float* into, std::int64_t lanes) const { _mm256_maskstore_ps(into, mask(lanes), x); }
  void store(BFloat16* into, std::int64_t lanes) const {
    store_bits(into, narrow_bfloat16(), lanes);
  }
  void store(Float16* into, std::int64_t lanes) const { store_bits(into, narrow_float16(), lanes); }

  friend VecFloat operator+(VecFloat a, VecFloat b) { return {_mm256_add_ps(a.x, b.x)}; }
  friend VecFloat operator-(VecFloat a, VecFloat b) { return {_mm256_sub_ps(a.x, b.x)}; }
  friend VecFloat operator*(VecFloat a, VecFloat b) { return {_mm256_mul_ps(a.x, b.x)}; }
  friend VecFloat operator/(VecFloat a, VecFloat b) { return {_mm256_div_ps(a.x, b.x)}; }
  friend VecFloat fma(VecFloat a, VecFloat b, VecFloat c) {
    return {_mm256_fmadd_ps(a.x, b.x, c.x)};
  }
  // A NaN stays one: the second operand is what remains.
  friend VecFloat not_negative(VecFloat a) { return {_mm256_max_ps(_mm256_setzero_ps(), a.x)}; }
  friend VecFloat sqrt(VecFloat a) { return {_mm256_sqrt_ps(a.x)}; }
  // `value` where a > b, else zero.
  friend VecFloat where_greater(VecFloat a, VecFloat b, VecFloat value) {
    return {_mm256_and_ps(_mm256_cmp_ps(a.x, b.x, _CMP_GT_OQ), value.x)};
  }
  friend double sum(VecFloat a) {
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(a.x));
    const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(a.x, 1));
    const __m256d both = _mm256_add_pd(low, high);
    const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(both), _mm256_extractf128_pd(both, 1));
    return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
  }
  // Rows become columns: fours of four rows first, then their halves.
  static void transpose(VecFloat (&rows)[8]) {
    __m256 fours[8];
    for (int g = 0; g < 8; g += 4) {
      const __m256 low = _mm256_unpacklo_ps(rows[g].x, rows[g + 1].x);
      const __m256 high = _mm256_unpackhi_ps(rows[g].x, rows[g + 1].x);
      const __m256 next_low = _mm256_unpacklo_ps(rows[g + 2].x, rows[g + 3].x);
      const __m256 next_high = _mm256_unpackhi_ps(rows[g + 2].x, rows[g + 3].x);
      fours[g] = _mm256_shuffle_ps(low, next_low, 0x44);
      fours[g + 1] = _mm256_shuffle_ps(low, next_low, 0xee);
      fours[g + 2] = _mm256_shuffle_ps(high, next_high, 0x44);
      fours[g + 3] = _mm256_shuffle_ps(high, next_high, 0xee);
    }
    for (int k = 0; k < 4; ++k) {
      rows[k].x = _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x20);
      rows[k + 4].x = _mm256_permute2f128_ps(fours[k], fours[k + 4], 0x31);
    }
  }

 private:
  template <class T>
  static __m128i load_bits(const T* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  // AVX2 has no masked access to 16-bit lanes: a partial vector goes through the stack.
  template <class T>
  static __m128i load_bits(const T* from, std::int64_t lanes) {
    alignas(16) T copy[width] = {};
    for (std::int64_t i = 0; i < lanes; ++i) copy[i] = from[i];
    return load_bits(copy);
  }
  template <class T>
  static void store_bits(T* into, __m128i bits) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(into), bits);
  }
  template <class T>
  static void store_bits(T* into, __m128i bits, std::int64_t lanes) {
    alignas(16) T copy[width];
    store_bits(copy, bits);
    for (std::int64_t i = 0; i < lanes; ++i) into[i] = copy[i];
  }
  static VecFloat widen_bfloat16(__m128i bits) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
  // Round to nearest, ties to even; a NaN stays one.
  __m128i narrow_bfloat16() const {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
  }
  __m128i narrow_float16() const {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
};

struct VecDouble {
  using Lane = double;
  static constexpr std::int64_t width = 4;
  static constexpr std::int64_t registers = 16;
  __m256d x;

  static __m256i mask(std::int64_t lanes) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), _mm256_setr_epi64x(0, 1, 2, 3));
  }

  static VecDouble fill(double value) { return {_mm256_set1_pd(value)}; }
  static VecDouble broadcast(const double* from) { return {_mm256_broadcast_sd(from)}; }
  static VecDouble load(const double* from) { return {_mm256_loadu_pd(from)}; }
  static VecDouble load(const double* from, std::int64_t lanes) {
    return {_mm256_maskload_pd(from, mask(lanes))};
  }
  void store(double* into) const { _mm256_storeu_pd(into, x); }
  void store(double* into, std::int64_t lanes) const { _mm256_maskstore_pd(into, mask(lanes), x); }

  friend VecDouble operator+(VecDouble a, VecDouble b) { return {_mm256_add_pd(a.x, b.x)}; }
  friend VecDouble operator-(VecDouble a, VecDouble b) { return {_mm256_sub_pd(a.x, b.x)}; }
  friend VecDouble operator*(VecDouble a, VecDouble b) { return {_mm256_mul_pd(a.x, b.x)}; }
  friend VecDouble operator/(VecDouble a, VecDouble b) { return {_mm256_div_pd(a.x, b.x)}; }
  friend VecDouble fma(VecDouble a, VecDouble b, VecDouble c) {
    return {_mm256_fmadd_pd(a.x, b.x, c.x)};
  }
  friend VecDouble not_negative(VecDouble a) { return {_mm256_max_pd(_mm256_setzero_pd(), a.x)}; }
  friend VecDouble sqrt(VecDouble a) { return {_mm256_sqrt_pd(a.x)}; }
  friend VecDouble where_greater(VecDouble a, VecDouble b, VecDouble value) {
    return {_mm256_and_pd(_mm256_cmp_pd(a.x, b.x, _CMP_GT_OQ), value.x)};
  }
  friend double sum(VecDouble a) {
    const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(a.x), _mm256_extractf128_pd(a.x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
  }
  static void transpose(VecDouble (&rows)[4]) {
    __m256d twos[4];
    for (int g = 0; g < 4; g += 2) {
      twos[g] = _mm256_unpacklo_pd(rows[g].x, rows[g + 1].x);
      twos[g + 1] = _mm256_unpackhi_pd(rows[g].x, rows[g + 1].x);
    }
    for (int k = 0; k < 2; ++k) {
      rows[k].x = _mm256_permute2f128_pd(twos[k], twos[k + 2], 0x20);
      rows[k + 2].x = _mm256_permute2f128_pd(twos[k], twos[k + 2], 0x31);
    }
  }
};

}  // namespace

#include "cpu/isa/loops.inl"

}  // namespace adak::cpu::avx2
