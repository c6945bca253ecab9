// 128-bit vectors: 4 floats or 2 doubles, 32 registers. Every 64-bit ARM processor has them, with
// fused products and with conversions of float16; bfloat16 is widened and narrowed as integers.
#include <arm_neon.h>

#include "cpu/elements.h"
#include "every_contract.h"

namespace adak::cpu::neon {
namespace {

// There is no masked access: a partial vector goes through the stack, zeros in the other lanes.
template <class Vec, class T>
Vec load_lanes(const T* from, std::int64_t lanes) {
  alignas(16) T copy[Vec::width] = {};
  for (std::int64_t i = 0; i < lanes; ++i) copy[i] = from[i];
  return Vec::load(copy);
}
template <class Vec, class T>
void store_lanes(Vec value, T* into, std::int64_t lanes) {
  alignas(16) T copy[Vec::width];
  value.store(copy);
  for (std::int64_t i = 0; i < lanes; ++i) into[i] = copy[i];
}

struct VecFloat {
  using Lane = float;
  static constexpr std::int64_t width = 4;
  static constexpr std::int64_t registers = 32;
  float32x4_t x;

  static VecFloat fill(double value) { return {vdupq_n_f32(static_cast<float>(value))}; }
  static VecFloat broadcast(const float* from) { return {vld1q_dup_f32(from)}; }
  static VecFloat load(const float* from) { return {vld1q_f32(from)}; }
  static VecFloat load(const BFloat16* from) {
    return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&from->bits), 16))};
  }
  static VecFloat load(const Float16* from) {
    return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits)))};
  }
  template <class T>
  static VecFloat load(const T* from, std::int64_t lanes) {
    return load_lanes<VecFloat>(from, lanes);
  }

  void store(float* into) const { vst1q_f32(into, x); }
  void store(BFloat16* into) const { vst1_u16(&into->bits, narrow_bfloat16()); }
  void store(Float16* into) const { vst1_u16(&into->bits, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
  template <class T>
  void store(T* into, std::int64_t lanes) const {
    store_lanes(*this, into, lanes);
  }

  friend VecFloat operator+(VecFloat a, VecFloat b) { return {vaddq_f32(a.x, b.x)}; }
  friend VecFloat operator-(VecFloat a, VecFloat b) { return {vsubq_f32(a.x, b.x)}; }
  friend VecFloat operator*(VecFloat a, VecFloat b) { return {vmulq_f32(a.x, b.x)}; }
  friend VecFloat operator/(VecFloat a, VecFloat b) { return {vdivq_f32(a.x, b.x)}; }
  friend VecFloat fma(VecFloat a, VecFloat b, VecFloat c) { return {vfmaq_f32(c.x, a.x, b.x)}; }
  // A NaN stays one: it is not below zero.
  friend VecFloat not_negative(VecFloat a) {
    return {vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.x), vcltzq_f32(a.x)))};
  }
  friend VecFloat sqrt(VecFloat a) { return {vsqrtq_f32(a.x)}; }
  // `value` where a > b, else zero.
  friend VecFloat where_greater(VecFloat a, VecFloat b, VecFloat value) {
    return {vreinterpretq_f32_u32(vandq_u32(vcgtq_f32(a.x, b.x), vreinterpretq_u32_f32(value.x)))};
  }
  friend double sum(VecFloat a) {
    return vaddvq_f64(vaddq_f64(vcvt_f64_f32(vget_low_f32(a.x)), vcvt_high_f64_f32(a.x)));
  }
  // Rows become columns: squares of two first, then squares of these.
  static void transpose(VecFloat (&rows)[4]) {
    float64x2_t pairs[4];
    for (int g = 0; g < 4; g += 2) {
      pairs[g] = vreinterpretq_f64_f32(vtrn1q_f32(rows[g].x, rows[g + 1].x));
      pairs[g + 1] = vreinterpretq_f64_f32(vtrn2q_f32(rows[g].x, rows[g + 1].x));
    }
    for (int k = 0; k < 2; ++k) {
      rows[k].x = vreinterpretq_f32_f64(vtrn1q_f64(pairs[k], pairs[k + 2]));
      rows[k + 2].x = vreinterpretq_f32_f64(vtrn2q_f64(pairs[k], pairs[k + 2]));
    }
  }

 private:
  // Round to nearest, ties to even; a NaN stays one.
  uint16x4_t narrow_bfloat16() const {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t upper = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1));
    const uint32x4_t bias = vaddq_u32(odd, vdupq_n_u32(0x7fff));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, bias), 16);
    const uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
    return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet));
  }
};

struct VecDouble {
  using Lane = double;
  static constexpr std::int64_t width = 2;
  static constexpr std::int64_t registers = 32;
  float64x2_t x;

  static VecDouble fill(double value) { return {vdupq_n_f64(value)}; }
  static VecDouble broadcast(const double* from) { return {vld1q_dup_f64(from)}; }
  static VecDouble load(const double* from) { return {vld1q_f64(from)}; }
  static VecDouble load(const double* from, std::int64_t lanes) {
    return load_lanes<VecDouble>(from, lanes);
  }
  void store(double* into) const { vst1q_f64(into, x); }
  void store(double* into, std::int64_t lanes) const { store_lanes(*this, into, lanes); }

  friend VecDouble operator+(VecDouble a, VecDouble b) { return {vaddq_f64(a.x, b.x)}; }
  friend VecDouble operator-(VecDouble a, VecDouble b) { return {vsubq_f64(a.x, b.x)}; }
  friend VecDouble operator*(VecDouble a, VecDouble b) { return {vmulq_f64(a.x, b.x)}; }
  friend VecDouble operator/(VecDouble a, VecDouble b) { return {vdivq_f64(a.x, b.x)}; }
  friend VecDouble fma(VecDouble a, VecDouble b, VecDouble c) { return {vfmaq_f64(c.x, a.x, b.x)}; }
  friend VecDouble not_negative(VecDouble a) {
    return {vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a.x), vcltzq_f64(a.x)))};
  }
  friend VecDouble sqrt(VecDouble a) { return {vsqrtq_f64(a.x)}; }
  friend VecDouble where_greater(VecDouble a, VecDouble b, VecDouble value) {
    return {vreinterpretq_f64_u64(vandq_u64(vcgtq_f64(a.x, b.x), vreinterpretq_u64_f64(value.x)))};
  }
  friend double sum(VecDouble a) { return vaddvq_f64(a.x); }
  static void transpose(VecDouble (&rows)[2]) {
    const float64x2_t first = vtrn1q_f64(rows[0].x, rows[1].x);
    rows[1].x = vtrn2q_f64(rows[0].x, rows[1].x);
    rows[0].x = first;
  }
};

}  // namespace

#include "cpu/isa/loops.inl"

}  // namespace adak::cpu::neon
