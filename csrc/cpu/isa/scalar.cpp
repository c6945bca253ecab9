// One lane: the baseline that every machine runs, and the plainest reading of the kernels.
#include <math.h>

#include "cpu/elements.h"
#include "every_contract.h"

namespace adak::cpu::scalar {
namespace {

float as_float(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
std::uint32_t as_bits(float value) { return __builtin_bit_cast(std::uint32_t, value); }

float widen(float value) { return value; }
float widen(BFloat16 value) { return as_float(std::uint32_t{value.bits} << 16); }
float widen(Float16 value) {
  const std::uint32_t sign = (std::uint32_t{value.bits} & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  // Subnormal halves are multiples of 2^-24, which float holds exactly.
  if (magnitude < 0x400u) {
    const float tiny = static_cast<float>(magnitude) * 0x1p-24f;
    return as_float(as_bits(tiny) | sign);
  }
  const std::uint32_t bias = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
  return as_float(sign | ((magnitude << 13) + bias));
}

void narrow(float value, float& into) { into = value; }
void narrow(float value, BFloat16& into) {
  const std::uint32_t bits = as_bits(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  into.bits = static_cast<std::uint16_t>(value != value ? (bits >> 16) | 0x40u : rounded);
}
void narrow(float value, Float16& into) {
  const std::uint32_t bits = as_bits(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);  // NaN
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // rounds to infinity
  } else if (magnitude < 0x38800000u) {
    // Adding 0.5 leaves the subnormal half in the low bits, rounded to nearest even.
    half = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  into.bits = static_cast<std::uint16_t>(half | sign);
}

template <class Number>
struct Scalar {
  using Lane = Number;
  static constexpr std::int64_t width = 1;
  static constexpr std::int64_t registers = 16;
  Number x;

  static Scalar fill(double value) { return {static_cast<Number>(value)}; }
  static Scalar broadcast(const Number* from) { return {*from}; }
  template <class T>
  static Scalar load(const T* from) {
    return {widen(*from)};
  }
  static Scalar load(const double* from) { return {static_cast<Number>(*from)}; }
  template <class T>
  static Scalar load(const T* from, std::int64_t) {
    return load(from);
  }
  void store(double* into) const { *into = x; }
  template <class T>
  void store(T* into) const {
    narrow(x, *into);
  }
  template <class T>
  void store(T* into, std::int64_t) const {
    store(into);
  }

  // A NaN stays one.
  friend Scalar not_negative(Scalar a) { return {a.x < 0 ? Number{0} : a.x}; }
  static void transpose(Scalar (&)[1]) {}

  friend Scalar operator+(Scalar a, Scalar b) { return {a.x + b.x}; }
  friend Scalar operator-(Scalar a, Scalar b) { return {a.x - b.x}; }
  friend Scalar operator*(Scalar a, Scalar b) { return {a.x * b.x}; }
  friend Scalar operator/(Scalar a, Scalar b) { return {a.x / b.x}; }
  friend Scalar fma(Scalar a, Scalar b, Scalar c) { return {a.x * b.x + c.x}; }
  friend Scalar sqrt(Scalar a) { return {static_cast<Number>(::sqrt(a.x))}; }
  // `value` where a > b, else zero.
  friend Scalar where_greater(Scalar a, Scalar b, Scalar value) {
    return {a.x > b.x ? value.x : Number{0}};
  }
  friend double sum(Scalar a) { return a.x; }
};

using VecFloat = Scalar<float>;
using VecDouble = Scalar<double>;

}  // namespace

#include "cpu/isa/loops.inl"

}  // namespace adak::cpu::scalar
