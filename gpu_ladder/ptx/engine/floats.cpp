// Arithmetic on f32, f64 and f32x2. Rounding modes other than nearest are the host's own; .ftz and
// .sat are applied around the operation. Approximate instructions are evaluated in float64 and
// rounded once, which is inside every error bound that PTX gives for them.
#include <algorithm>

#include "numbers.h"
#include "warp.h"

namespace gpu_ladder::ptx {
namespace {

constexpr std::uint32_t kSpecialCases = kRoundingMask | kFlush | kSaturate;

template <class T>
T prepared(T value, std::uint32_t attributes) {
  return (attributes & kFlush) != 0 ? flush(value) : value;
}
template <class T>
T finished(T value, std::uint32_t attributes) {
  if ((attributes & kFlush) != 0) value = flush(value);
  if ((attributes & kSaturate) != 0) value = saturate(value);
  return canonical(value);
}

// d = operation(a, b, ...) where all have the type T.
template <class T, class Operation, std::size_t... index>
void arithmetic(Warp& warp, const Instruction& instruction, std::uint32_t mask,
                std::index_sequence<index...>) {
  T* destination = warp.operand<T>(instruction, 0);
  const T* const sources[] = {warp.operand<T>(instruction, index + 1)...};
  const std::uint32_t attributes = instruction.attributes;
  if ((attributes & kSpecialCases) == 0) {
    for_lanes(destination, mask, [&](std::uint32_t lane) {
      return canonical(Operation::apply(sources[index][lane]...));
    });
    return;
  }
  const RoundingScope scope(rounding(instruction));
  for_lanes(destination, mask, [&](std::uint32_t lane) {
    return finished(Operation::apply(prepared(sources[index][lane], attributes)...), attributes);
  });
}
template <class T, class Operation, std::size_t count>
void real(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  arithmetic<T, Operation>(warp, instruction, mask, std::make_index_sequence<count>{});
}

struct Add {
  template <class T>
  static T apply(T a, T b) {
    return a + b;
  }
};
struct Subtract {
  template <class T>
  static T apply(T a, T b) {
    return a - b;
  }
};
struct Multiply {
  template <class T>
  static T apply(T a, T b) {
    return a * b;
  }
};
struct Fused {
  static float apply(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static double apply(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
struct Divide {
  template <class T>
  static T apply(T a, T b) {
    return a / b;
  }
};
struct Reciprocal {
  template <class T>
  static T apply(T a) {
    return T(1) / a;
  }
};
struct Root {
  static float apply(float a) { return __builtin_sqrtf(a); }
  static double apply(double a) { return __builtin_sqrt(a); }
};

// Functions of float64 behind the approximate instructions.
template <double (*function)(double)>
struct Approximate {
  static float apply(float a) { return static_cast<float>(function(static_cast<double>(a))); }
  static double apply(double a) { return function(a); }
};
double reciprocal_root(double a) { return 1.0 / std::sqrt(a); }
double power_of_two(double a) { return std::exp2(a); }
double logarithm(double a) { return std::log2(a); }
double sine(double a) { return std::sin(a); }
double cosine(double a) { return std::cos(a); }
double hyperbolic_tangent(double a) { return std::tanh(a); }

template <class T>
void absolute(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    return std::fabs(prepared(a[lane], instruction.attributes));
  });
}
template <class T>
void negate(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  for_lanes(warp.operand<T>(instruction, 0), mask,
            [&](std::uint32_t lane) { return -prepared(a[lane], instruction.attributes); });
}
template <class T>
void copy_sign(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* sign = warp.operand<T>(instruction, 1);
  const T* magnitude = warp.operand<T>(instruction, 2);
  for_lanes(warp.operand<T>(instruction, 0), mask,
            [&](std::uint32_t lane) { return std::copysign(magnitude[lane], sign[lane]); });
}

template <class T, bool is_maximum>
void extreme(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t attributes = instruction.attributes;
  const bool propagate = (attributes & kNan) != 0;
  const bool by_magnitude = (attributes & (kXorSign | kAbsolute)) != 0;
  const std::uint32_t count = instruction.operand_count - 1;
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    T result = T(0);
    bool negative = false;
    for (std::uint32_t index = 0; index < count; ++index) {
      T value = prepared(warp.operand<T>(instruction, index + 1)[lane], attributes);
      negative ^= std::signbit(value);
      if (by_magnitude) value = std::fabs(value);
      result = index == 0 ? value : extremum<is_maximum>(result, value, propagate);
    }
    if ((attributes & kXorSign) != 0 && result == result)
      result = std::copysign(result, negative ? T(-1) : T(1));
    return canonical(result);
  });
}

// testp: finite, infinite, number, notanumber, normal, subnormal, in this order.
template <class T>
void classify(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  const std::uint32_t property = mode(instruction);
  const std::uint32_t bits = gather_bits([&](std::uint32_t lane) {
    const T value = a[lane];
    switch (property) {
      case 0:
        return std::isfinite(value);
      case 1:
        return std::isinf(value);
      case 2:
        return !std::isnan(value);
      case 3:
        return std::isnan(value);
      case 4:
        return std::isnormal(value) || value == 0;  // zeros count, by definition
      default:
        return std::fpclassify(value) == FP_SUBNORMAL;
    }
  });
  store_predicate(warp, instruction.operands[0], mask, bits);
}

// Two floats side by side in a 64-bit register: each lane is two elements of one long row.
template <class Operation, std::size_t... index>
void packed(Warp& warp, const Instruction& instruction, std::uint32_t mask,
            std::index_sequence<index...>) {
  struct Pair {
    float values[2];
  };
  const Pair* const sources[] = {warp.operand<Pair>(instruction, index + 1)...};
  const std::uint32_t attributes = instruction.attributes;
  const RoundingScope scope(rounding(instruction));
  for_lanes(warp.operand<Pair>(instruction, 0), mask, [&](std::uint32_t lane) {
    Pair result;
    for (int part = 0; part < 2; ++part)
      result.values[part] = finished(
          Operation::apply(prepared(sources[index][lane].values[part], attributes)...), attributes);
    return result;
  });
}
template <class Operation, std::size_t count>
void pair(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  packed<Operation>(warp, instruction, mask, std::make_index_sequence<count>{});
}

template <class T>
void add_type(Operations& list, const std::string& type) {
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name + ("." + type), handler, Kind::plain});
  };
  add("add", real<T, Add, 2>);
  add("sub", real<T, Subtract, 2>);
  add("mul", real<T, Multiply, 2>);
  add("fma", real<T, Fused, 3>);
  add("div", real<T, Divide, 2>);
  add("rcp", real<T, Reciprocal, 1>);
  add("sqrt", real<T, Root, 1>);
  add("rsqrt", real<T, Approximate<reciprocal_root>, 1>);
  add("abs", absolute<T>);
  add("neg", negate<T>);
  add("copysign", copy_sign<T>);
  add("min", extreme<T, false>);
  add("max", extreme<T, true>);
  add("testp", classify<T>);
}

}  // namespace

void add_float_operations(Operations& list) {
  add_type<float>(list, "f32");
  add_type<double>(list, "f64");
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name, handler, Kind::plain});
  };
  add("ex2.f32", real<float, Approximate<power_of_two>, 1>);
  add("lg2.f32", real<float, Approximate<logarithm>, 1>);
  add("sin.f32", real<float, Approximate<sine>, 1>);
  add("cos.f32", real<float, Approximate<cosine>, 1>);
  add("tanh.f32", real<float, Approximate<hyperbolic_tangent>, 1>);
  add("add.f32x2", pair<Add, 2>);
  add("sub.f32x2", pair<Subtract, 2>);
  add("mul.f32x2", pair<Multiply, 2>);
  add("fma.f32x2", pair<Fused, 3>);
}

}  // namespace gpu_ladder::ptx
