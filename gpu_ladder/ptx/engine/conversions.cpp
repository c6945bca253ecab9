// cvt between every pair of number types.
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "numbers.h"
#include "warp.h"

namespace gpu_ladder::ptx {
namespace {

template <class T>
constexpr bool is_integer = std::is_integral_v<T>;

// Stores into a destination register that may be wider than the type of the result: integers are
// extended by their sign, or with zeros.
template <class Value>
void store_wide(Warp& warp, const Instruction& instruction, std::uint32_t mask, Value value) {
  const std::uint32_t bytes = 1u << ((instruction.attributes >> kWidthShift) & 7u);
  const auto store = [&](auto example) {
    using Register = decltype(example);
    for_lanes(warp.operand<Register>(instruction, 0), mask,
              [&](std::uint32_t lane) { return static_cast<Register>(value(lane)); });
  };
  if (bytes == 2)
    store(std::uint16_t{});
  else if (bytes == 4)
    store(std::uint32_t{});
  else
    store(std::uint64_t{});
}

template <class D, class S>
D clamp_integer(S value) {
  using Limits = std::numeric_limits<D>;
  if (std::cmp_less(value, Limits::min())) return Limits::min();
  if (std::cmp_greater(value, Limits::max())) return Limits::max();
  return static_cast<D>(value);
}
template <class D, class S>
void integer_to_integer(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint8_t* a = warp.operand<std::uint8_t>(instruction, 1);
  const std::uint64_t stride = instruction.immediate;  // bytes of the source register
  const bool clamps = (instruction.attributes & kSaturate) != 0;
  const auto source = [&](std::uint32_t lane) {
    S value;
    std::memcpy(&value, a + lane * stride, sizeof(S));
    return value;
  };
  if (clamps)
    store_wide(warp, instruction, mask,
               [&](std::uint32_t lane) { return clamp_integer<D>(source(lane)); });
  else
    store_wide(warp, instruction, mask,
               [&](std::uint32_t lane) { return static_cast<D>(source(lane)); });
}

// To the nearest integer or as the mode says, clamped. NaN is 0, but the number with only the top
// bit set where the source is f64 or the result has 64 bits.
template <class D, class S>
void float_to_integer(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const S* a = warp.operand<S>(instruction, 1);
  const bool flushes = (instruction.attributes & kFlush) != 0;
  const Rounding how = rounding(instruction);
  store_wide(warp, instruction, mask, [&](std::uint32_t lane) {
    auto wide = widen(a[lane]);
    if (wide != wide)
      return std::is_same_v<S, double> || sizeof(D) == 8
                 ? static_cast<D>(D(1) << (8 * sizeof(D) - 1))
                 : D(0);
    if (flushes && sizeof(S) == 4) wide = flush(wide);
    const double value = static_cast<double>(wide);
    const double whole = how == Rounding::nearest ? std::nearbyint(value)
                         : how == Rounding::zero  ? std::trunc(value)
                         : how == Rounding::down  ? std::floor(value)
                                                  : std::ceil(value);
    // 2^bits is exact in double, the largest number of 64 bits is not.
    const double beyond = std::ldexp(1.0, std::numeric_limits<D>::digits);
    if (whole >= beyond) return std::numeric_limits<D>::max();
    if (whole < static_cast<double>(std::numeric_limits<D>::min()))
      return std::numeric_limits<D>::min();
    return static_cast<D>(whole);
  });
}

template <class D>
D saturate_number(D value) {
  return saturate(value);
}
Half saturate_number(Half value) {
  const float wide = widen(value);
  return wide > 0 ? (wide < 1 ? value : Half{0x3c00}) : Half{0};
}
Brain saturate_number(Brain value) { return value; }

template <class D, class S>
D rounded_number(S value, Rounding how) {
  if constexpr (std::is_same_v<D, Half>) {
    return to_half(static_cast<long double>(value), how);
  } else if constexpr (std::is_same_v<D, Brain>) {
    return to_brain(static_cast<long double>(value), how);
  } else {
    return static_cast<D>(value);  // in the rounding mode of the host
  }
}

template <class D, class S>
void integer_to_float(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint8_t* a = warp.operand<std::uint8_t>(instruction, 1);
  const std::uint64_t stride = instruction.immediate;
  const bool clamps = (instruction.attributes & kSaturate) != 0;
  const Rounding how = rounding(instruction);
  const RoundingScope scope(sizeof(D) >= 4 ? how : Rounding::nearest);
  for_lanes(warp.operand<D>(instruction, 0), mask, [&](std::uint32_t lane) {
    S value;
    std::memcpy(&value, a + lane * stride, sizeof(S));
    const D result = rounded_number<D>(value, how);
    return clamps ? saturate_number(result) : result;
  });
}

template <class D, class S>
void float_to_float(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const S* a = warp.operand<S>(instruction, 1);
  const std::uint32_t attributes = instruction.attributes;
  const Rounding how = rounding(instruction);
  if constexpr (std::is_same_v<S, float> && sizeof(D) == 2) {
    constexpr std::uint32_t unusual = kRoundingMask | kFlush | kSaturate | kRelu | kSatFinite;
    if ((attributes & unusual) == 0) {
      for_lanes(warp.operand<D>(instruction, 0), mask, [&](std::uint32_t lane) {
        if constexpr (std::is_same_v<D, Half>)
          return nearest_half(a[lane]);
        else
          return nearest_brain(a[lane]);
      });
      return;
    }
  }
  const RoundingScope scope(sizeof(D) >= 4 && (attributes & kIntegral) == 0 ? how
                                                                            : Rounding::nearest);
  for_lanes(warp.operand<D>(instruction, 0), mask, [&](std::uint32_t lane) {
    auto value = widen(a[lane]);
    if ((attributes & kFlush) != 0 && sizeof(S) == 4) value = flush(value);
    if ((attributes & kIntegral) != 0)
      value = how == Rounding::nearest ? std::nearbyint(value)
              : how == Rounding::zero  ? std::trunc(value)
              : how == Rounding::down  ? std::floor(value)
                                       : std::ceil(value);
    if ((attributes & kRelu) != 0 && !(value > 0) && value == value) value = 0;
    D result = rounded_number<D>(value, how);
    if constexpr (std::is_floating_point_v<D>) {
      if ((attributes & kFlush) != 0 && sizeof(D) == 4) result = flush(result);
      if ((attributes & kSaturate) != 0) result = saturate(result);
      return canonical(result);
    } else {
      if ((attributes & kSatFinite) != 0 &&
          (result.bits & 0x7fffu) == (std::is_same_v<D, Half> ? 0x7c00u : 0x7f80u))
        --result.bits;
      return (attributes & kSaturate) != 0 ? saturate_number(result) : result;
    }
  });
}

// cvt d, a, b to a pair: a becomes the upper half.
template <class D>
void floats_to_pair(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const float* high = warp.operand<float>(instruction, 1);
  const float* low = warp.operand<float>(instruction, 2);
  const std::uint32_t attributes = instruction.attributes;
  const Rounding how = rounding(instruction);
  const auto narrow = [&](float value) {
    if ((attributes & kRelu) != 0 && !(value > 0) && value == value) value = 0;
    D result = how != Rounding::nearest  ? rounded_number<D>(value, how)
               : std::is_same_v<D, Half> ? std::bit_cast<D>(nearest_half(value))
                                         : std::bit_cast<D>(nearest_brain(value));
    if ((attributes & kSatFinite) != 0 &&
        (result.bits & 0x7fffu) == (std::is_same_v<D, Half> ? 0x7c00u : 0x7f80u))
      --result.bits;
    return static_cast<std::uint32_t>(result.bits);
  };
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask,
            [&](std::uint32_t lane) { return (narrow(high[lane]) << 16) | narrow(low[lane]); });
}

// tf32 has 10 bits of fraction and the exponents of float; the low 13 bits of the result are zero.
void to_tensor32(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const float* a = warp.operand<float>(instruction, 1);
  const std::uint32_t attributes = instruction.attributes;
  const Rounding how = rounding(instruction);
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    float value = a[lane];
    if (value != value) return kNanBits32;
    if ((attributes & kRelu) != 0 && !(value > 0)) value = 0;
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7f800000u) == 0x7f800000u)
      return (attributes & kSatFinite) != 0 ? bits - 0x2000u : bits;
    const std::uint32_t half = how == Rounding::nearest_away ? 0x1000u
                               : how == Rounding::nearest    ? 0x0fffu + ((bits >> 13) & 1u)
                                                             : 0u;
    const std::uint32_t rounded = (bits + half) & 0xffffe000u;
    if ((attributes & kSatFinite) != 0 && (rounded & 0x7f800000u) == 0x7f800000u)
      return rounded - 0x2000u;
    return rounded;
  });
}

template <class D, class S>
void add_pair(Operations& list, const std::string& destination, const std::string& source) {
  const std::string name = "cvt." + destination + "." + source;
  if constexpr (is_integer<D> && is_integer<S>)
    list.push_back({name, integer_to_integer<D, S>, Kind::plain});
  else if constexpr (is_integer<D>)
    list.push_back({name, float_to_integer<D, S>, Kind::plain});
  else if constexpr (is_integer<S>)
    list.push_back({name, integer_to_float<D, S>, Kind::plain});
  else
    list.push_back({name, float_to_float<D, S>, Kind::plain});
}
template <class D>
void add_all(Operations& list, const std::string& destination) {
  add_pair<D, std::uint8_t>(list, destination, "u8");
  add_pair<D, std::int8_t>(list, destination, "s8");
  add_pair<D, std::uint16_t>(list, destination, "u16");
  add_pair<D, std::int16_t>(list, destination, "s16");
  add_pair<D, std::uint32_t>(list, destination, "u32");
  add_pair<D, std::int32_t>(list, destination, "s32");
  add_pair<D, std::uint64_t>(list, destination, "u64");
  add_pair<D, std::int64_t>(list, destination, "s64");
  add_pair<D, Half>(list, destination, "f16");
  add_pair<D, Brain>(list, destination, "bf16");
  add_pair<D, float>(list, destination, "f32");
  add_pair<D, double>(list, destination, "f64");
}

}  // namespace

void add_conversion_operations(Operations& list) {
  add_all<std::uint8_t>(list, "u8");
  add_all<std::int8_t>(list, "s8");
  add_all<std::uint16_t>(list, "u16");
  add_all<std::int16_t>(list, "s16");
  add_all<std::uint32_t>(list, "u32");
  add_all<std::int32_t>(list, "s32");
  add_all<std::uint64_t>(list, "u64");
  add_all<std::int64_t>(list, "s64");
  add_all<Half>(list, "f16");
  add_all<Brain>(list, "bf16");
  add_all<float>(list, "f32");
  add_all<double>(list, "f64");
  list.push_back({"cvt.f16x2.f32", floats_to_pair<Half>, Kind::plain});
  list.push_back({"cvt.bf16x2.f32", floats_to_pair<Brain>, Kind::plain});
  list.push_back({"cvt.tf32.f32", to_tensor32, Kind::plain});
}

}  // namespace gpu_ladder::ptx
