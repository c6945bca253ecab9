// 512-bit vectors: 16 floats or 8 doubles, 32 registers, masks for the tails.
// Needs AVX-512 F, BW, DQ and VL, or, to be tested without them, avx512_emulated.h.
#if ADAK_EMULATE_AVX512
#include "cpu/isa/avx512_emulated.h"
#else
#include <immintrin.h>
#endif

#include "cpu/elements.h"
#include "every_contract.h"

namespace adak::cpu::avx512 {
namespace {

struct VecFloat {
  using Lane = float;
  static constexpr std::int64_t width = 16;
  static constexpr std::int64_t registers = 32;
  __m512 x;

  static __mmask16 mask(std::int64_t lanes) { return static_cast<__mmask16>((1u << lanes) - 1u); }

  static VecFloat fill(double value) { return {_mm512_set1_ps(static_cast<float>(value))}; }

  static VecFloat broadcast(const float* from) { return {_mm512_set1_ps(*from)}; }
  static VecFloat load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static VecFloat load(const BFloat16* from) { return widen_bfloat16(load_bits(from)); }
  static VecFloat load(const Float16* from) { return {_mm512_cvtph_ps(load_bits(from))}; }
  static VecFloat load(const float* from, std::int64_t lanes) {
    return {_mm512_maskz_loadu_ps(mask(lanes), from)};
  }
  static VecFloat load(const BFloat16* from, std::int64_t lanes) {
    return widen_bfloat16(load_bits(from, lanes));
  }
  static VecFloat load(const Float16* from, std::int64_t lanes) {
    return {_mm512_cvtph_ps(load_bits(from, lanes))};
  }

  void store(float* into) const { _mm512_storeu_ps(into, x); }
  void store(BFloat16* into) const { store_bits(into, narrow_bfloat16()); }
  void store(Float16* into) const { store_bits(into, narrow_float16()); }
  void store(float* into, std::int64_t lanes) const { _mm512_mask_storeu_ps(into, mask(lanes), x); }
  void store(BFloat16* into, std::int64_t lanes) const {
    _mm256_mask_storeu_epi16(into, mask(lanes), narrow_bfloat16());
  }
  void store(Float16* into, std::int64_t lanes) const {
    _mm256_mask_storeu_epi16(into, mask(lanes), narrow_float16());
  }

  friend VecFloat operator+(VecFloat a, VecFloat b) { return {_mm512_add_ps(a.x, b.x)}; }
  friend VecFloat operator-(VecFloat a, VecFloat b) { return {_mm512_sub_ps(a.x, b.x)}; }
  friend VecFloat operator*(VecFloat a, VecFloat b) { return {_mm512_mul_ps(a.x, b.x)}; }
  friend VecFloat operator/(VecFloat a, VecFloat b) { return {_mm512_div_ps(a.x, b.x)}; }
  friend VecFloat fma(VecFloat a, VecFloat b, VecFloat c) {
    return {_mm512_fmadd_ps(a.x, b.x, c.x)};
  }
  // A NaN stays one: the second operand is what remains.
  friend VecFloat not_negative(VecFloat a) { return {_mm512_max_ps(_mm512_set1_ps(0), a.x)}; }
  friend VecFloat sqrt(VecFloat a) { return {_mm512_sqrt_ps(a.x)}; }
  // `value` where a > b, else zero.
  friend VecFloat where_greater(VecFloat a, VecFloat b, VecFloat value) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.x, b.x, _CMP_GT_OQ), value.x)};
  }
  friend double sum(VecFloat a) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a.x));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.x, 1));
    return sum_doubles(_mm512_add_pd(low, high));
  }
  static double sum_doubles(__m512d x) {
    const __m256d both = _mm256_add_pd(_mm512_castpd512_pd256(x), _mm512_extractf64x4_pd(x, 1));
    const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(both), _mm256_extractf128_pd(both, 1));
    return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
  }
  // Rows become columns: fours of four rows first, then the quarters of all.
  static void transpose(VecFloat (&rows)[16]) {
    __m512 fours[16];
    for (int g = 0; g < 16; g += 4) {
      const __m512 low = _mm512_unpacklo_ps(rows[g].x, rows[g + 1].x);
      const __m512 high = _mm512_unpackhi_ps(rows[g].x, rows[g + 1].x);
      const __m512 next_low = _mm512_unpacklo_ps(rows[g + 2].x, rows[g + 3].x);
      const __m512 next_high = _mm512_unpackhi_ps(rows[g + 2].x, rows[g + 3].x);
      fours[g] = _mm512_shuffle_ps(low, next_low, 0x44);
      fours[g + 1] = _mm512_shuffle_ps(low, next_low, 0xee);
      fours[g + 2] = _mm512_shuffle_ps(high, next_high, 0x44);
      fours[g + 3] = _mm512_shuffle_ps(high, next_high, 0xee);
    }
    for (int k = 0; k < 4; ++k) {
      const __m512 even = _mm512_shuffle_f32x4(fours[k], fours[k + 4], 0x88);
      const __m512 odd = _mm512_shuffle_f32x4(fours[k], fours[k + 4], 0xdd);
      const __m512 next_even = _mm512_shuffle_f32x4(fours[k + 8], fours[k + 12], 0x88);
      const __m512 next_odd = _mm512_shuffle_f32x4(fours[k + 8], fours[k + 12], 0xdd);
      rows[k].x = _mm512_shuffle_f32x4(even, next_even, 0x88);
      rows[k + 4].x = _mm512_shuffle_f32x4(odd, next_odd, 0x88);
      rows[k + 8].x = _mm512_shuffle_f32x4(even, next_even, 0xdd);
      rows[k + 12].x = _mm512_shuffle_f32x4(odd, next_odd, 0xdd);
    }
  }

 private:
  template <class T>
  static __m256i load_bits(const T* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  template <class T>
  static __m256i load_bits(const T* from, std::int64_t lanes) {
    return _mm256_maskz_loadu_epi16(mask(lanes), from);
  }
  template <class T>
  static void store_bits(T* into, __m256i bits) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(into), bits);
  }
  static VecFloat widen_bfloat16(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  // Round to nearest, ties to even; a NaN stays one.
  __m256i narrow_bfloat16() const {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(is_nan, rounded, quiet));
  }
  __m256i narrow_float16() const {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
};

struct VecDouble {
  using Lane = double;
  static constexpr std::int64_t width = 8;
  static constexpr std::int64_t registers = 32;
  __m512d x;

  static __mmask8 mask(std::int64_t lanes) { return static_cast<__mmask8>((1u << lanes) - 1u); }

  static VecDouble fill(double value) { return {_mm512_set1_pd(value)}; }
  static VecDouble broadcast(const double* from) { return {_mm512_set1_pd(*from)}; }
  static VecDouble load(const double* from) { return {_mm512_loadu_pd(from)}; }
  static VecDouble load(const double* from, std::int64_t lanes) {
    return {_mm512_maskz_loadu_pd(mask(lanes), from)};
  }
  void store(double* into) const { _mm512_storeu_pd(into, x); }
  void store(double* into, std::int64_t lanes) const {
    _mm512_mask_storeu_pd(into, mask(lanes), x);
  }

  friend VecDouble operator+(VecDouble a, VecDouble b) { return {_mm512_add_pd(a.x, b.x)}; }
  friend VecDouble operator-(VecDouble a, VecDouble b) { return {_mm512_sub_pd(a.x, b.x)}; }
  friend VecDouble operator*(VecDouble a, VecDouble b) { return {_mm512_mul_pd(a.x, b.x)}; }
  friend VecDouble operator/(VecDouble a, VecDouble b) { return {_mm512_div_pd(a.x, b.x)}; }
  friend VecDouble fma(VecDouble a, VecDouble b, VecDouble c) {
    return {_mm512_fmadd_pd(a.x, b.x, c.x)};
  }
  friend VecDouble not_negative(VecDouble a) { return {_mm512_max_pd(_mm512_set1_pd(0), a.x)}; }
  friend VecDouble sqrt(VecDouble a) { return {_mm512_sqrt_pd(a.x)}; }
  friend VecDouble where_greater(VecDouble a, VecDouble b, VecDouble value) {
    return {_mm512_maskz_mov_pd(_mm512_cmp_pd_mask(a.x, b.x, _CMP_GT_OQ), value.x)};
  }
  friend double sum(VecDouble a) { return VecFloat::sum_doubles(a.x); }
  static void transpose(VecDouble (&rows)[8]) {
    __m512d twos[8];
    for (int g = 0; g < 8; g += 2) {
      twos[g] = _mm512_unpacklo_pd(rows[g].x, rows[g + 1].x);
      twos[g + 1] = _mm512_unpackhi_pd(rows[g].x, rows[g + 1].x);
    }
    for (int k = 0; k < 2; ++k) {
      const __m512d even = _mm512_shuffle_f64x2(twos[k], twos[k + 2], 0x88);
      const __m512d odd = _mm512_shuffle_f64x2(twos[k], twos[k + 2], 0xdd);
      const __m512d next_even = _mm512_shuffle_f64x2(twos[k + 4], twos[k + 6], 0x88);
      const __m512d next_odd = _mm512_shuffle_f64x2(twos[k + 4], twos[k + 6], 0xdd);
      rows[k].x = _mm512_shuffle_f64x2(even, next_even, 0x88);
      rows[k + 2].x = _mm512_shuffle_f64x2(odd, next_odd, 0x88);
      rows[k + 4].x = _mm512_shuffle_f64x2(even, next_even, 0xdd);
      rows[k + 6].x = _mm512_shuffle_f64x2(odd, next_odd, 0xdd);
    }
  }
};

}  // namespace

#include "cpu/isa/loops.inl"

}  // namespace adak::cpu::avx512
