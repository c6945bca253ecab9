// Logic, shifts and bit fields.
#include <bit>
#include <type_traits>

#include "attributes.h"
#include "warp.h"

namespace gpu_ladder::ptx {
namespace {

template <class T, class Operation>
void binary(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  const T* b = warp.operand<T>(instruction, 2);
  for_lanes(warp.operand<T>(instruction, 0), mask,
            [&](std::uint32_t lane) { return static_cast<T>(Operation::apply(a[lane], b[lane])); });
}
template <class Operation>
void predicates(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t a = *warp.operand<std::uint32_t>(instruction, 1);
  const std::uint32_t b = *warp.operand<std::uint32_t>(instruction, 2);
  store_predicate(warp, instruction.operands[0], mask, Operation::apply(a, b));
}
struct And {
  template <class T>
  static auto apply(T a, T b) {
    return a & b;
  }
};
struct Or {
  template <class T>
  static auto apply(T a, T b) {
    return a | b;
  }
};
struct Xor {
  template <class T>
  static auto apply(T a, T b) {
    return a ^ b;
  }
};

template <class T>
void invert(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  for_lanes(warp.operand<T>(instruction, 0), mask,
            [&](std::uint32_t lane) { return static_cast<T>(~a[lane]); });
}
void invert_predicate(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  store_predicate(warp, instruction.operands[0], mask,
                  ~*warp.operand<std::uint32_t>(instruction, 1));
}
template <class T>
void is_zero(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  for_lanes(warp.operand<T>(instruction, 0), mask,
            [&](std::uint32_t lane) { return static_cast<T>(a[lane] == 0 ? 1 : 0); });
}

// Amounts beyond the width shift everything out (or leave the sign).
template <class T>
void shift_left(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  constexpr std::uint32_t width = 8 * sizeof(T);
  const T* a = warp.operand<T>(instruction, 1);
  const std::uint32_t* amount = warp.operand<std::uint32_t>(instruction, 2);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    const T shifted =
        static_cast<T>(static_cast<std::conditional_t<(width < 32), std::uint32_t, T>>(a[lane])
                       << (amount[lane] & (width - 1)));
    return amount[lane] < width ? shifted : static_cast<T>(0);
  });
}
template <class T>
void shift_right(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  constexpr std::uint32_t width = 8 * sizeof(T);
  const T* a = warp.operand<T>(instruction, 1);
  const std::uint32_t* amount = warp.operand<std::uint32_t>(instruction, 2);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    const T beyond = std::is_signed_v<T> ? static_cast<T>(a[lane] >> (width - 1)) : T(0);
    const T shifted = static_cast<T>(a[lane] >> (amount[lane] & (width - 1)));
    return amount[lane] < width ? shifted : beyond;
  });
}

// shf: the 64-bit value b:a, from which the upper (left) or lower (right) half is taken.
template <bool left>
void funnel_shift(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t* a = warp.operand<std::uint32_t>(instruction, 1);
  const std::uint32_t* b = warp.operand<std::uint32_t>(instruction, 2);
  const std::uint32_t* c = warp.operand<std::uint32_t>(instruction, 3);
  const bool wraps = (instruction.attributes & kWrap) != 0;
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    const std::uint32_t amount = wraps ? c[lane] & 31u : (c[lane] > 32u ? 32u : c[lane]);
    const std::uint64_t both = (static_cast<std::uint64_t>(b[lane]) << 32) | a[lane];
    return static_cast<std::uint32_t>(left ? (both << amount) >> 32 : both >> amount);
  });
}

template <class T>
void count_ones(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask,
            [&](std::uint32_t lane) { return static_cast<std::uint32_t>(std::popcount(a[lane])); });
}
template <class T>
void count_leading_zeros(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    return static_cast<std::uint32_t>(std::countl_zero(a[lane]));
  });
}
// The most significant bit that differs from the sign (that is set, for unsigned numbers).
template <class T>
void find_bit(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  using Bits = std::make_unsigned_t<T>;
  constexpr std::uint32_t width = 8 * sizeof(T);
  const T* a = warp.operand<T>(instruction, 1);
  const bool as_shift = (instruction.attributes & kShiftAmount) != 0;
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    const Bits value = static_cast<Bits>(a[lane] < 0 ? ~a[lane] : a[lane]);
    if (value == 0) return kNone;
    const auto zeros = static_cast<std::uint32_t>(std::countl_zero(value));
    return as_shift ? zeros : width - 1 - zeros;
  });
}
template <class T>
void reverse_bits(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    T reversed = 0;
    for (std::uint32_t bit = 0; bit < 8 * sizeof(T); ++bit)
      reversed |= ((a[lane] >> bit) & T(1)) << (8 * sizeof(T) - 1 - bit);
    return reversed;
  });
}

// Bits beyond the end of the source repeat its sign bit, or are zero.
template <class T>
void extract_field(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  using Bits = std::make_unsigned_t<T>;
  constexpr std::uint32_t width = 8 * sizeof(T);
  const T* a = warp.operand<T>(instruction, 1);
  const std::uint32_t* position = warp.operand<std::uint32_t>(instruction, 2);
  const std::uint32_t* length = warp.operand<std::uint32_t>(instruction, 3);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    const std::uint32_t start = position[lane] & 0xffu;
    const std::uint32_t count = length[lane] & 0xffu;
    if (count == 0) return T(0);
    const bool is_signed = std::is_signed_v<T>;
    const std::uint32_t sign_at = start + count - 1 < width - 1 ? start + count - 1 : width - 1;
    const Bits source = static_cast<Bits>(a[lane]);
    const Bits sign =
        is_signed && ((source >> sign_at) & 1u) != 0 ? static_cast<Bits>(~Bits(0)) : 0;
    const Bits field = start < width ? static_cast<Bits>(source >> start) : Bits(0);
    const std::uint32_t inside = start < width ? width - start : 0;
    const std::uint32_t valid = count < inside ? count : inside;
    const Bits keep =
        valid >= width ? static_cast<Bits>(~Bits(0)) : static_cast<Bits>((Bits(1) << valid) - 1);
    return static_cast<T>((field & keep) | (sign & static_cast<Bits>(~keep)));
  });
}
template <class T>
void insert_field(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  constexpr std::uint32_t width = 8 * sizeof(T);
  const T* a = warp.operand<T>(instruction, 1);
  const T* b = warp.operand<T>(instruction, 2);
  const std::uint32_t* position = warp.operand<std::uint32_t>(instruction, 3);
  const std::uint32_t* length = warp.operand<std::uint32_t>(instruction, 4);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t lane) {
    const std::uint32_t start = position[lane] & 0xffu;
    const std::uint32_t count = length[lane] & 0xffu;
    if (start >= width || count == 0) return b[lane];
    const T ones = count >= width ? static_cast<T>(~T(0)) : static_cast<T>((T(1) << count) - 1);
    const T field = static_cast<T>(ones << start);
    return static_cast<T>((b[lane] & ~field) | ((a[lane] << start) & field));
  });
}

// prmt picks four of the eight bytes of b:a. Modes: general, f4e, b4e, rc8, ecl, ecr, rc16.
void permute_bytes(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  static constexpr std::uint16_t kSelectors[6][4] = {
      {0x3210, 0x4321, 0x5432, 0x6543}, {0x5670, 0x6701, 0x7012, 0x0123},
      {0x0000, 0x1111, 0x2222, 0x3333}, {0x3210, 0x3211, 0x3222, 0x3333},
      {0x0000, 0x1110, 0x2210, 0x3210}, {0x1010, 0x3232, 0x1010, 0x3232}};
  const std::uint32_t* a = warp.operand<std::uint32_t>(instruction, 1);
  const std::uint32_t* b = warp.operand<std::uint32_t>(instruction, 2);
  const std::uint32_t* c = warp.operand<std::uint32_t>(instruction, 3);
  const std::uint32_t how = mode(instruction);
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    const std::uint32_t selector = how == 0 ? c[lane] : kSelectors[how - 1][c[lane] & 3u];
    const std::uint64_t both = (static_cast<std::uint64_t>(b[lane]) << 32) | a[lane];
    std::uint32_t result = 0;
    for (std::uint32_t byte = 0; byte < 4; ++byte) {
      const std::uint32_t pick = (selector >> (4 * byte)) & 0xfu;
      std::uint32_t value = static_cast<std::uint32_t>(both >> (8 * (pick & 7u))) & 0xffu;
      if (how == 0 && (pick & 8u) != 0) value = (value & 0x80u) != 0 ? 0xffu : 0u;
      result |= value << (8 * byte);
    }
    return result;
  });
}

void three_input_logic(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t* a = warp.operand<std::uint32_t>(instruction, 1);
  const std::uint32_t* b = warp.operand<std::uint32_t>(instruction, 2);
  const std::uint32_t* c = warp.operand<std::uint32_t>(instruction, 3);
  const auto table = static_cast<std::uint32_t>(instruction.immediate);
  std::uint32_t select[8];
  for (std::uint32_t row = 0; row < 8; ++row) select[row] = ((table >> row) & 1u) != 0 ? kNone : 0u;
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    std::uint32_t result = 0;
    for (std::uint32_t row = 0; row < 8; ++row)
      result |= select[row] & ((row & 4u) != 0 ? a[lane] : ~a[lane]) &
                ((row & 2u) != 0 ? b[lane] : ~b[lane]) & ((row & 1u) != 0 ? c[lane] : ~c[lane]);
    return result;
  });
}

// dp4a: four products of bytes and a sum; the type of a and of b says how bytes are extended.
template <class A, class B>
void dot_bytes(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t* a = warp.operand<std::uint32_t>(instruction, 1);
  const std::uint32_t* b = warp.operand<std::uint32_t>(instruction, 2);
  const std::uint32_t* c = warp.operand<std::uint32_t>(instruction, 3);
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    std::uint32_t sum = c[lane];
    for (std::uint32_t byte = 0; byte < 4; ++byte) {
      const int first = static_cast<A>(a[lane] >> (8 * byte));
      const int second = static_cast<B>(b[lane] >> (8 * byte));
      sum += static_cast<std::uint32_t>(first * second);
    }
    return sum;
  });
}

template <class T>
void add_logic(Operations& list, const std::string& type) {
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name + ("." + type), handler, Kind::plain});
  };
  add("and", binary<T, And>);
  add("or", binary<T, Or>);
  add("xor", binary<T, Xor>);
  add("not", invert<T>);
  add("cnot", is_zero<T>);
  add("shl", shift_left<T>);
  add("shr", shift_right<T>);
}

}  // namespace

void add_bit_operations(Operations& list) {
  using std::int16_t, std::int32_t, std::int64_t, std::uint16_t, std::uint32_t, std::uint64_t;
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name, handler, Kind::plain});
  };
  add_logic<uint16_t>(list, "b16");
  add_logic<uint32_t>(list, "b32");
  add_logic<uint64_t>(list, "b64");
  add("shr.s16", shift_right<int16_t>);
  add("shr.s32", shift_right<int32_t>);
  add("shr.s64", shift_right<int64_t>);
  add("and.pred", predicates<And>);
  add("or.pred", predicates<Or>);
  add("xor.pred", predicates<Xor>);
  add("not.pred", invert_predicate);
  add("shf.l", funnel_shift<true>);
  add("shf.r", funnel_shift<false>);
  add("popc.b32", count_ones<uint32_t>);
  add("popc.b64", count_ones<uint64_t>);
  add("clz.b32", count_leading_zeros<uint32_t>);
  add("clz.b64", count_leading_zeros<uint64_t>);
  add("bfind.u32", find_bit<uint32_t>);
  add("bfind.s32", find_bit<int32_t>);
  add("bfind.u64", find_bit<uint64_t>);
  add("bfind.s64", find_bit<int64_t>);
  add("brev.b32", reverse_bits<uint32_t>);
  add("brev.b64", reverse_bits<uint64_t>);
  add("bfe.u32", extract_field<uint32_t>);
  add("bfe.s32", extract_field<int32_t>);
  add("bfe.u64", extract_field<uint64_t>);
  add("bfe.s64", extract_field<int64_t>);
  add("bfi.b32", insert_field<uint32_t>);
  add("bfi.b64", insert_field<uint64_t>);
  add("prmt.b32", permute_bytes);
  add("lop3.b32", three_input_logic);
  add("dp4a.u32.u32", dot_bytes<std::uint8_t, std::uint8_t>);
  add("dp4a.u32.s32", dot_bytes<std::uint8_t, std::int8_t>);
  add("dp4a.s32.u32", dot_bytes<std::int8_t, std::uint8_t>);
  add("dp4a.s32.s32", dot_bytes<std::int8_t, std::int8_t>);
}

}  // namespace gpu_ladder::ptx
