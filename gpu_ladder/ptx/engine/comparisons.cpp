// setp, set, selp, slct.
#include <cmath>

#include "numbers.h"
#include "warp.h"

namespace gpu_ladder::ptx {
namespace {

// The order of instructions.py: six that are false with NaN, six that are true, then num and nan.
enum Comparison : std::uint32_t {
  equal,
  unequal,
  less,
  less_equal,
  greater,
  greater_equal,
  equal_or_nan,
  unequal_or_nan,
  less_or_nan,
  less_equal_or_nan,
  greater_or_nan,
  greater_equal_or_nan,
  numbers,
  nan
};

template <class T>
auto value_of(T value, std::uint32_t attributes) {
  if constexpr (std::is_integral_v<T>) {
    return value;
  } else {
    const auto wide = widen(value);
    if ((attributes & kFlush) == 0) return wide;
    if constexpr (std::is_same_v<T, Half>)  // a subnormal half is a normal float
      return (value.bits & 0x7c00u) == 0 ? std::copysign(0.0f, wide) : wide;
    else
      return flush(wide);
  }
}

template <class T>
std::uint32_t compare(Warp& warp, const Instruction& instruction, std::uint32_t first) {
  const T* a = warp.operand<T>(instruction, first);
  const T* b = warp.operand<T>(instruction, first + 1);
  const std::uint32_t attributes = instruction.attributes;
  const auto bits = [&](auto test) {
    return gather_bits([&](std::uint32_t lane) {
      return test(value_of(a[lane], attributes), value_of(b[lane], attributes));
    });
  };
  const auto ordered = [](auto x, auto y) { return x == x && y == y; };
  switch ((attributes >> kCompareShift) & 0x1f) {
    case equal:
      return bits([](auto x, auto y) { return x == y; });
    case unequal:
      return bits([&](auto x, auto y) { return ordered(x, y) && x != y; });
    case less:
      return bits([](auto x, auto y) { return x < y; });
    case less_equal:
      return bits([](auto x, auto y) { return x <= y; });
    case greater:
      return bits([](auto x, auto y) { return x > y; });
    case greater_equal:
      return bits([](auto x, auto y) { return x >= y; });
    case equal_or_nan:
      return bits([&](auto x, auto y) { return !ordered(x, y) || x == y; });
    case unequal_or_nan:
      return bits([](auto x, auto y) { return x != y; });
    case less_or_nan:
      return bits([](auto x, auto y) { return !(x >= y); });
    case less_equal_or_nan:
      return bits([](auto x, auto y) { return !(x > y); });
    case greater_or_nan:
      return bits([](auto x, auto y) { return !(x <= y); });
    case greater_equal_or_nan:
      return bits([](auto x, auto y) { return !(x < y); });
    case numbers:
      return bits(ordered);
    default:
      return bits([&](auto x, auto y) { return !ordered(x, y); });
  }
}

std::uint32_t combine(Warp& warp, const Instruction& instruction, std::uint32_t bits,
                      std::uint32_t last) {
  const std::uint32_t how = (instruction.attributes >> kCombineShift) & 3u;
  if (how == 0) return bits;
  std::uint32_t other = *warp.operand<std::uint32_t>(instruction, last);
  if ((instruction.attributes & kNegated) != 0) other = ~other;
  return how == 1 ? bits & other : how == 2 ? bits | other : bits ^ other;
}

// setp d|p, a, b{, c}: p gets the opposite comparison, combined with c as d is.
template <class T>
void set_predicate(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t bits = compare<T>(warp, instruction, 2);
  const std::uint32_t chosen = combine(warp, instruction, bits, 4);
  const std::uint32_t opposite = combine(warp, instruction, ~bits, 4);
  store_predicate(warp, instruction.operands[0], mask, chosen);
  store_predicate(warp, instruction.operands[1], mask, opposite);
}

// set: all ones or 1.0f where true.
template <class T, std::uint32_t truth>
void set_value(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t bits = combine(warp, instruction, compare<T>(warp, instruction, 1), 3);
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask,
            [&](std::uint32_t lane) { return ((bits >> lane) & 1u) != 0 ? truth : 0u; });
}

template <class T>
void select(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  const T* b = warp.operand<T>(instruction, 2);
  std::uint32_t chosen = *warp.operand<std::uint32_t>(instruction, 3);
  if ((instruction.attributes & kNegated) != 0) chosen = ~chosen;
  for_lanes(warp.operand<T>(instruction, 0), mask,
            [&](std::uint32_t lane) { return ((chosen >> lane) & 1u) != 0 ? a[lane] : b[lane]; });
}

// slct: a where c >= 0, else b; NaN counts as below zero, -0 as zero.
template <class T, class C>
void select_by_sign(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  const T* b = warp.operand<T>(instruction, 2);
  const C* c = warp.operand<C>(instruction, 3);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    return value_of(c[lane], instruction.attributes) >= 0 ? a[lane] : b[lane];
  });
}

template <class T>
void add_type(Operations& list, const std::string& type) {
  list.push_back({"setp." + type, set_predicate<T>, Kind::plain});
  list.push_back({"set.u32." + type, set_value<T, 0xffffffffu>, Kind::plain});
  list.push_back({"set.f32." + type, set_value<T, 0x3f800000u>, Kind::plain});
}

}  // namespace

void add_comparison_operations(Operations& list) {
  add_type<std::uint16_t>(list, "u16");
  add_type<std::int16_t>(list, "s16");
  add_type<std::uint32_t>(list, "u32");
  add_type<std::int32_t>(list, "s32");
  add_type<std::uint64_t>(list, "u64");
  add_type<std::int64_t>(list, "s64");
  add_type<float>(list, "f32");
  add_type<double>(list, "f64");
  add_type<Half>(list, "f16");
  add_type<Brain>(list, "bf16");
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name, handler, Kind::plain});
  };
  add("selp.b16", select<std::uint16_t>);
  add("selp.b32", select<std::uint32_t>);
  add("selp.b64", select<std::uint64_t>);
  add("slct.b16.s32", select_by_sign<std::uint16_t, std::int32_t>);
  add("slct.b32.s32", select_by_sign<std::uint32_t, std::int32_t>);
  add("slct.b64.s32", select_by_sign<std::uint64_t, std::int32_t>);
  add("slct.b16.f32", select_by_sign<std::uint16_t, float>);
  add("slct.b32.f32", select_by_sign<std::uint32_t, float>);
  add("slct.b64.f32", select_by_sign<std::uint64_t, float>);
}

}  // namespace gpu_ladder::ptx
