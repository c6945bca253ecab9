// Arithmetic on f16, bf16 and their pairs, and the mixed forms with an f32 accumulator.
#include "numbers.h"
#include "warp.h"

namespace gpu_ladder::ptx {
namespace {

Half narrow(double value, Half) { return nearest_half(odd_float(value)); }
Brain narrow(double value, Brain) { return nearest_brain(odd_float(value)); }

Half flush16(Half value) {
  return (value.bits & 0x7c00u) == 0 ? Half{static_cast<std::uint16_t>(value.bits & 0x8000u)}
                                     : value;
}
Brain flush16(Brain value) { return value; }

template <class T>
double prepared(T value, std::uint32_t attributes) {
  return static_cast<double>(widen((attributes & kFlush) != 0 ? flush16(value) : value));
}
template <class T>
T finished(double value, std::uint32_t attributes) {
  if ((attributes & kSaturate) != 0) value = saturate(value);
  if ((attributes & kRelu) != 0 && value < 0) value = 0;
  T result = narrow(value, T{});
  if ((attributes & kRelu) != 0 && result.bits == 0x8000u) result.bits = 0;
  return (attributes & kFlush) != 0 ? flush16(result) : result;
}

struct Add {
  static double apply(double a, double b) { return a + b; }
};
struct Subtract {
  static double apply(double a, double b) { return a - b; }
};
struct Multiply {
  static double apply(double a, double b) { return a * b; }
};
struct Fused {
  static double apply(double a, double b, double c) { return odd_fma(a, b, c); }
};
struct PowerOfTwo {
  static double apply(double a) { return std::exp2(a); }
};
struct HyperbolicTangent {
  static double apply(double a) { return std::tanh(a); }
};

// `parts` numbers in each register: one, or the two of an x2 type.
template <class T, int parts>
struct Packed {
  T values[parts];
};

template <class T, int parts, class Operation, std::size_t... index>
void apply_parts(Warp& warp, const Instruction& instruction, std::uint32_t mask,
                 std::index_sequence<index...>) {
  using Register = Packed<T, parts>;
  const Register* const sources[] = {warp.operand<Register>(instruction, index + 1)...};
  const std::uint32_t attributes = instruction.attributes;
  for_lanes(warp.operand<Register>(instruction, 0), mask, [&](std::uint32_t lane) {
    Register result;
    for (int part = 0; part < parts; ++part)
      result.values[part] = finished<T>(
          Operation::apply(prepared(sources[index][lane].values[part], attributes)...), attributes);
    return result;
  });
}
template <class T, int parts, class Operation, std::size_t count>
void real(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  apply_parts<T, parts, Operation>(warp, instruction, mask, std::make_index_sequence<count>{});
}

template <class T, int parts, std::uint16_t keep, std::uint16_t flip>
void change_sign(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  using Register = Packed<T, parts>;
  const Register* a = warp.operand<Register>(instruction, 1);
  for_lanes(warp.operand<Register>(instruction, 0), mask, [&](std::uint32_t lane) {
    Register result;
    for (int part = 0; part < parts; ++part) {
      T value = a[lane].values[part];
      if ((instruction.attributes & kFlush) != 0) value = flush16(value);
      value.bits = static_cast<std::uint16_t>((value.bits & keep) ^ flip);
      result.values[part] = value;
    }
    return result;
  });
}

template <class T, int parts, bool is_maximum>
void extreme(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  using Register = Packed<T, parts>;
  const Register* a = warp.operand<Register>(instruction, 1);
  const Register* b = warp.operand<Register>(instruction, 2);
  const std::uint32_t attributes = instruction.attributes;
  for_lanes(warp.operand<Register>(instruction, 0), mask, [&](std::uint32_t lane) {
    Register result;
    for (int part = 0; part < parts; ++part) {
      double first = prepared(a[lane].values[part], attributes);
      double second = prepared(b[lane].values[part], attributes);
      const bool negative =
          ((a[lane].values[part].bits ^ b[lane].values[part].bits) & 0x8000u) != 0;
      if ((attributes & kXorSign) != 0) {
        first = std::fabs(first);
        second = std::fabs(second);
      }
      double chosen = extremum<is_maximum>(first, second, (attributes & kNan) != 0);
      if ((attributes & kXorSign) != 0) chosen = std::copysign(chosen, negative ? -1.0 : 1.0);
      result.values[part] = finished<T>(chosen, attributes);
    }
    return result;
  });
}

// add, sub and fma with operands a (and b) of 16 bits and everything else float.
template <class T, int sign>
void mixed_add(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  const float* c = warp.operand<float>(instruction, 2);
  const RoundingScope scope(rounding(instruction));
  for_lanes(warp.operand<float>(instruction, 0), mask, [&](std::uint32_t lane) {
    const float sum = sign > 0 ? widen(a[lane]) + c[lane] : widen(a[lane]) - c[lane];
    return canonical((instruction.attributes & kSaturate) != 0 ? saturate(sum) : sum);
  });
}
template <class T>
void mixed_fma(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  const T* b = warp.operand<T>(instruction, 2);
  const float* c = warp.operand<float>(instruction, 3);
  const RoundingScope scope(rounding(instruction));
  for_lanes(warp.operand<float>(instruction, 0), mask, [&](std::uint32_t lane) {
    const float sum = __builtin_fmaf(widen(a[lane]), widen(b[lane]), c[lane]);
    return canonical((instruction.attributes & kSaturate) != 0 ? saturate(sum) : sum);
  });
}

template <class T, int parts>
void add_type(Operations& list, const std::string& type) {
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name + ("." + type), handler, Kind::plain});
  };
  add("add", real<T, parts, Add, 2>);
  add("sub", real<T, parts, Subtract, 2>);
  add("mul", real<T, parts, Multiply, 2>);
  add("fma", real<T, parts, Fused, 3>);
  add("ex2", real<T, parts, PowerOfTwo, 1>);
  add("tanh", real<T, parts, HyperbolicTangent, 1>);
  add("abs", change_sign<T, parts, 0x7fff, 0>);
  add("neg", change_sign<T, parts, 0xffff, 0x8000>);
  add("min", extreme<T, parts, false>);
  add("max", extreme<T, parts, true>);
}

}  // namespace

void add_half_operations(Operations& list) {
  add_type<Half, 1>(list, "f16");
  add_type<Half, 2>(list, "f16x2");
  add_type<Brain, 1>(list, "bf16");
  add_type<Brain, 2>(list, "bf16x2");
  list.push_back({"add.f32.f16", mixed_add<Half, 1>, Kind::plain});
  list.push_back({"add.f32.bf16", mixed_add<Brain, 1>, Kind::plain});
  list.push_back({"sub.f32.f16", mixed_add<Half, -1>, Kind::plain});
  list.push_back({"sub.f32.bf16", mixed_add<Brain, -1>, Kind::plain});
  list.push_back({"fma.f32.f16", mixed_fma<Half>, Kind::plain});
  list.push_back({"fma.f32.bf16", mixed_fma<Brain>, Kind::plain});
}

}  // namespace gpu_ladder::ptx
