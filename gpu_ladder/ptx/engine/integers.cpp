// Integer arithmetic. Overflow wraps, as in PTX; sums and products go through unsigned numbers.
#include <limits>
#include <type_traits>

#include "attributes.h"
#include "warp.h"

namespace gpu_ladder::ptx {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

// Wide enough for the product of two numbers of type T.
template <class T>
using Wide = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, std::int32_t, std::uint32_t>,
    std::conditional_t<sizeof(T) == 4,
                       std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

// uint16_t operands would be promoted to int, whose product may overflow.
template <class T>
using Arithmetic = std::conditional_t<sizeof(T) == 2, std::uint32_t, Unsigned<T>>;

template <class T>
T wrapped(Arithmetic<T> value) {
  return static_cast<T>(value);
}
template <class T>
Arithmetic<T> plain(T value) {
  return static_cast<Arithmetic<T>>(value);
}
template <class T>
T product_high(T a, T b) {
  return static_cast<T>((static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b)) >> (8 * sizeof(T)));
}

struct Add {
  template <class T>
  static T apply(T a, T b) {
    return wrapped<T>(plain(a) + plain(b));
  }
};
struct Subtract {
  template <class T>
  static T apply(T a, T b) {
    return wrapped<T>(plain(a) - plain(b));
  }
};
struct AddSaturated {
  template <class T>
  static T apply(T a, T b) {
    T sum;
    if (__builtin_add_overflow(a, b, &sum))
      return a < 0 ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max();
    return sum;
  }
};
struct SubtractSaturated {
  template <class T>
  static T apply(T a, T b) {
    T difference;
    if (__builtin_sub_overflow(a, b, &difference))
      return a < 0 ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max();
    return difference;
  }
};
struct MultiplyLow {
  template <class T>
  static T apply(T a, T b) {
    return wrapped<T>(plain(a) * plain(b));
  }
};
struct MultiplyHigh {
  template <class T>
  static T apply(T a, T b) {
    return product_high(a, b);
  }
};
struct MultiplyAddLow {
  template <class T>
  static T apply(T a, T b, T c) {
    return wrapped<T>(plain(a) * plain(b) + plain(c));
  }
};
struct MultiplyAddHigh {
  template <class T>
  static T apply(T a, T b, T c) {
    return wrapped<T>(plain(product_high(a, b)) + plain(c));
  }
};
struct MultiplyAddHighSaturated {
  template <class T>
  static T apply(T a, T b, T c) {
    return AddSaturated::apply(product_high(a, b), c);
  }
};
template <class T>
T low24(T value) {
  const auto shifted = static_cast<std::uint32_t>(value) << 8;
  return static_cast<T>(static_cast<T>(shifted) >> 8);
}
struct Multiply24Low {
  template <class T>
  static T apply(T a, T b) {
    return MultiplyLow::apply(low24(a), low24(b));
  }
};
struct Multiply24High {  // bits 16 to 47 of the product
  template <class T>
  static T apply(T a, T b) {
    return static_cast<T>((static_cast<Wide<T>>(low24(a)) * static_cast<Wide<T>>(low24(b))) >> 16);
  }
};
struct MultiplyAdd24Low {
  template <class T>
  static T apply(T a, T b, T c) {
    return Add::apply(Multiply24Low::apply(a, b), c);
  }
};
struct MultiplyAdd24High {
  template <class T>
  static T apply(T a, T b, T c) {
    return Add::apply(Multiply24High::apply(a, b), c);
  }
};
struct SumOfDifferences {
  template <class T>
  static T apply(T a, T b, T c) {
    return wrapped<T>(plain(c) + (a < b ? plain(b) - plain(a) : plain(a) - plain(b)));
  }
};
// PTX leaves a quotient by zero open; devices give all ones, and the dividend as the remainder.
struct Divide {
  template <class T>
  static T apply(T a, T b) {
    if (b == 0) return static_cast<T>(~T(0));
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return wrapped<T>(0 - plain(a));
    return static_cast<T>(a / b);
  }
};
struct Remainder {
  template <class T>
  static T apply(T a, T b) {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return 0;
    return static_cast<T>(a % b);
  }
};
struct Minimum {
  template <class T>
  static T apply(T a, T b) {
    return a < b ? a : b;
  }
};
struct Maximum {
  template <class T>
  static T apply(T a, T b) {
    return a > b ? a : b;
  }
};
template <class Operation>
struct Rectified {  // .relu
  template <class T>
  static T apply(T a, T b) {
    return Maximum::apply(Operation::apply(a, b), T(0));
  }
};
struct Absolute {
  template <class T>
  static T apply(T a) {
    return a < 0 ? wrapped<T>(0 - plain(a)) : a;
  }
};
struct Negate {
  template <class T>
  static T apply(T a) {
    return wrapped<T>(0 - plain(a));
  }
};

template <class T, class Operation, std::size_t... index>
void apply_all(Warp& warp, const Instruction& instruction, std::uint32_t mask,
               std::index_sequence<index...>) {
  const T* const sources[] = {warp.operand<T>(instruction, index + 1)...};
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    return Operation::template apply<T>(sources[index][lane]...);
  });
}
template <class T, class Operation, std::size_t count>
void integer(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  apply_all<T, Operation>(warp, instruction, mask, std::make_index_sequence<count>{});
}

template <class T, class Operation>
void pair16(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  struct Pair {
    T low, high;
  };
  const Pair* a = warp.operand<Pair>(instruction, 1);
  const Pair* b = warp.operand<Pair>(instruction, 2);
  for_lanes(warp.operand<Pair>(instruction, 0), mask, [&](std::uint32_t lane) {
    return Pair{Operation::template apply<T>(a[lane].low, b[lane].low),
                Operation::template apply<T>(a[lane].high, b[lane].high)};
  });
}

template <class T>
void multiply_wide(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  const T* b = warp.operand<T>(instruction, 2);
  using Result = Wide<T>;
  for_lanes(warp.operand<Result>(instruction, 0), mask, [&](std::uint32_t lane) {
    return static_cast<Result>(static_cast<Result>(a[lane]) * static_cast<Result>(b[lane]));
  });
}
template <class T>
void multiply_add_wide(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  const T* b = warp.operand<T>(instruction, 2);
  using Result = Wide<T>;
  const Result* c = warp.operand<Result>(instruction, 3);
  for_lanes(warp.operand<Result>(instruction, 0), mask, [&](std::uint32_t lane) {
    const auto product =
        static_cast<Unsigned<Result>>(static_cast<Result>(a[lane]) * static_cast<Result>(b[lane]));
    return static_cast<Result>(product + static_cast<Unsigned<Result>>(c[lane]));
  });
}

// add, sub and mad with the carry flag: .cc writes it, addc, subc and madc read it. For a
// subtraction the flag is the borrow. All are sums or differences of one term and the first operand
// or a product.
enum class Term { operand, product_low, product_high };
template <class T, Term term, bool subtracts>
void with_carry(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const bool reads = (instruction.attributes & kCarryIn) != 0;
  const std::uint32_t before = warp.carry;
  std::uint32_t after = 0;
  const std::uint32_t last = instruction.operand_count - 1;
  T* destination = warp.operand<T>(instruction, 0);
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    if (((mask >> lane) & 1u) == 0) continue;
    const T a = warp.operand<T>(instruction, 1)[lane];
    const T b = warp.operand<T>(instruction, last)[lane];
    T first = a;
    if constexpr (term != Term::operand) {
      const T factor = warp.operand<T>(instruction, 2)[lane];
      first = term == Term::product_low ? MultiplyLow::apply(a, factor) : product_high(a, factor);
    }
    const auto x = static_cast<Unsigned<T>>(first);
    const auto y = static_cast<Unsigned<T>>(b);
    const unsigned __int128 carried = reads ? (before >> lane) & 1u : 0u;
    const unsigned __int128 exact = subtracts ? static_cast<unsigned __int128>(x) - y - carried
                                              : static_cast<unsigned __int128>(x) + y + carried;
    destination[lane] = static_cast<T>(static_cast<Unsigned<T>>(exact));
    after |= static_cast<std::uint32_t>((exact >> (8 * sizeof(T))) & 1u) << lane;
  }
  if ((instruction.attributes & kCarryOut) != 0) warp.carry = (before & ~mask) | (after & mask);
}

template <class T>
void add_type(Operations& list, const std::string& type) {
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name + ("." + type), handler, Kind::plain});
  };
  add("add", integer<T, Add, 2>);
  add("sub", integer<T, Subtract, 2>);
  add("mul.lo", integer<T, MultiplyLow, 2>);
  add("mul.hi", integer<T, MultiplyHigh, 2>);
  add("mad.lo", integer<T, MultiplyAddLow, 3>);
  add("mad.hi", integer<T, MultiplyAddHigh, 3>);
  add("sad", integer<T, SumOfDifferences, 3>);
  add("div", integer<T, Divide, 2>);
  add("rem", integer<T, Remainder, 2>);
  add("min", integer<T, Minimum, 2>);
  add("max", integer<T, Maximum, 2>);
  if constexpr (std::is_signed_v<T>) {
    add("abs", integer<T, Absolute, 1>);
    add("neg", integer<T, Negate, 1>);
  }
  if constexpr (sizeof(T) < 8) {
    add("mul.wide", multiply_wide<T>);
    add("mad.wide", multiply_add_wide<T>);
  }
  if constexpr (sizeof(T) == 4) {
    add("mul24.lo", integer<T, Multiply24Low, 2>);
    add("mul24.hi", integer<T, Multiply24High, 2>);
    add("mad24.lo", integer<T, MultiplyAdd24Low, 3>);
    add("mad24.hi", integer<T, MultiplyAdd24High, 3>);
  }
  if constexpr (sizeof(T) >= 4) {
    add("add.carry", with_carry<T, Term::operand, false>);
    add("sub.carry", with_carry<T, Term::operand, true>);
    add("mad.lo.carry", with_carry<T, Term::product_low, false>);
    add("mad.hi.carry", with_carry<T, Term::product_high, false>);
  }
}

}  // namespace

void add_integer_operations(Operations& list) {
  add_type<std::uint16_t>(list, "u16");
  add_type<std::int16_t>(list, "s16");
  add_type<std::uint32_t>(list, "u32");
  add_type<std::int32_t>(list, "s32");
  add_type<std::uint64_t>(list, "u64");
  add_type<std::int64_t>(list, "s64");
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name, handler, Kind::plain});
  };
  add("add.sat.s32", integer<std::int32_t, AddSaturated, 2>);
  add("sub.sat.s32", integer<std::int32_t, SubtractSaturated, 2>);
  add("mad.hi.sat.s32", integer<std::int32_t, MultiplyAddHighSaturated, 3>);
  add("min.relu.s32", integer<std::int32_t, Rectified<Minimum>, 2>);
  add("max.relu.s32", integer<std::int32_t, Rectified<Maximum>, 2>);
  add("add.u16x2", pair16<std::uint16_t, Add>);
  add("add.s16x2", pair16<std::int16_t, Add>);
  add("min.u16x2", pair16<std::uint16_t, Minimum>);
  add("min.s16x2", pair16<std::int16_t, Minimum>);
  add("max.u16x2", pair16<std::uint16_t, Maximum>);
  add("max.s16x2", pair16<std::int16_t, Maximum>);
  add("min.relu.s16x2", pair16<std::int16_t, Rectified<Minimum>>);
  add("max.relu.s16x2", pair16<std::int16_t, Rectified<Maximum>>);
}

}  // namespace gpu_ladder::ptx
