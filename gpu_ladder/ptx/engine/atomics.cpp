// atom and red, fences. The lanes of one instruction take effect one after the other.
#include <cstring>
#include <string>
#include <type_traits>

#include "machine.h"
#include "numbers.h"

namespace gpu_ladder::ptx {
namespace {

struct Add {
  template <class T>
  static T apply(T old, T value) {
    using Bits = std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>,
                                    std::type_identity<T>>::type;
    return canonical_sum(static_cast<T>(static_cast<Bits>(old) + static_cast<Bits>(value)));
  }
  static Half apply(Half old, Half value) { return nearest_half(widen(old) + widen(value)); }
  static Brain apply(Brain old, Brain value) { return nearest_brain(widen(old) + widen(value)); }

 private:
  template <class T>
  static T canonical_sum(T value) {
    if constexpr (std::is_floating_point_v<T>) return canonical(value);
    return value;
  }
};
struct Minimum {
  template <class T>
  static T apply(T old, T value) {
    return value < old ? value : old;
  }
};
struct Maximum {
  template <class T>
  static T apply(T old, T value) {
    return value > old ? value : old;
  }
};
struct And {
  template <class T>
  static T apply(T old, T value) {
    return old & value;
  }
};
struct Or {
  template <class T>
  static T apply(T old, T value) {
    return old | value;
  }
};
struct Xor {
  template <class T>
  static T apply(T old, T value) {
    return old ^ value;
  }
};
struct Exchange {
  template <class T>
  static T apply(T, T value) {
    return value;
  }
};
struct Increase {  // wraps to 0 after `limit`
  template <class T>
  static T apply(T old, T limit) {
    return old >= limit ? 0 : old + 1;
  }
};
struct Decrease {  // wraps to `limit` after 0
  template <class T>
  static T apply(T old, T limit) {
    return old == 0 || old > limit ? limit : old - 1;
  }
};
template <class T>
struct Pair {
  T low, high;
};
struct AddPair {
  template <class T>
  static Pair<T> apply(Pair<T> old, Pair<T> value) {
    return {Add::apply(old.low, value.low), Add::apply(old.high, value.high)};
  }
};

// d, [address], value: `change` gives the new contents from the old ones and the lane.
template <class T, class Change>
void read_modify_write(Warp& warp, const Instruction& instruction, std::uint32_t mask,
                       Change change) {
  Machine& machine = *warp.machine;
  const Order order = memory_order(instruction);
  if (order == Order::release || order == Order::acquire_release) machine.fence(warp, mask);
  std::uint64_t addresses[kLanes];
  std::uint8_t* pointers[kLanes];
  machine.addresses(warp, instruction, 1, addresses);
  const std::uint32_t allowed = machine.resolve(warp, instruction, mask, addresses,
                                                {.space = state_space(instruction),
                                                 .bytes = sizeof(T),
                                                 .write = true,
                                                 .atomic = true,
                                                 .blind = false},
                                                pointers);
  T old[kLanes] = {};
  for (const std::uint8_t lane : machine.lane_order()) {
    if (((allowed >> lane) & 1u) == 0) continue;
    std::memcpy(&old[lane], pointers[lane], sizeof(T));
    const T changed = change(old[lane], lane);
    std::memcpy(pointers[lane], &changed, sizeof(T));
  }
  T* destination = warp.operand<T>(instruction, 0);
  for_lanes(destination, mask, [&](std::uint32_t lane) { return old[lane]; });
  if (order == Order::acquire || order == Order::acquire_release) machine.fence(warp, mask);
}

template <class T, class Operation>
void atomic(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* value = warp.operand<T>(instruction, 2);
  read_modify_write<T>(warp, instruction, mask, [&](T old, std::uint32_t lane) {
    return static_cast<T>(Operation::apply(old, value[lane]));
  });
}
// PTX: on global memory atom.add.f32 flushes subnormal inputs and results to zero, on shared memory
// it does not.
void atomic_add_float(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const float* value = warp.operand<float>(instruction, 2);
  std::uint64_t addresses[kLanes];
  warp.machine->addresses(warp, instruction, 1, addresses);
  read_modify_write<float>(warp, instruction, mask, [&](float old, std::uint32_t lane) {
    StateSpace space = state_space(instruction);
    if (space == StateSpace::generic) space = warp.machine->space_of(addresses[lane]);
    if (space == StateSpace::shared) return Add::apply(old, value[lane]);
    return flush(Add::apply(flush(old), flush(value[lane])));
  });
}
template <class T>
void compare_and_swap(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* expected = warp.operand<T>(instruction, 2);
  const T* value = warp.operand<T>(instruction, 3);
  read_modify_write<T>(warp, instruction, mask, [&](T old, std::uint32_t lane) {
    return old == expected[lane] ? value[lane] : old;
  });
}

void fence_all(Warp& warp, const Instruction&, std::uint32_t mask) {
  warp.machine->fence(warp, mask);
}

}  // namespace

void add_atomic_operations(Operations& list) {
  using std::int32_t, std::int64_t, std::uint16_t, std::uint32_t, std::uint64_t;
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name, handler, Kind::plain});
  };
  add("atom.add.u32", atomic<uint32_t, Add>);
  add("atom.add.s32", atomic<int32_t, Add>);
  add("atom.add.u64", atomic<uint64_t, Add>);
  add("atom.add.f32", atomic_add_float);
  add("atom.add.f64", atomic<double, Add>);
  add("atom.add.f16", atomic<Half, Add>);
  add("atom.add.bf16", atomic<Brain, Add>);
  add("atom.add.f16x2", atomic<Pair<Half>, AddPair>);
  add("atom.add.bf16x2", atomic<Pair<Brain>, AddPair>);
  add("atom.min.u32", atomic<uint32_t, Minimum>);
  add("atom.min.s32", atomic<int32_t, Minimum>);
  add("atom.min.u64", atomic<uint64_t, Minimum>);
  add("atom.min.s64", atomic<int64_t, Minimum>);
  add("atom.max.u32", atomic<uint32_t, Maximum>);
  add("atom.max.s32", atomic<int32_t, Maximum>);
  add("atom.max.u64", atomic<uint64_t, Maximum>);
  add("atom.max.s64", atomic<int64_t, Maximum>);
  add("atom.and.b32", atomic<uint32_t, And>);
  add("atom.and.b64", atomic<uint64_t, And>);
  add("atom.or.b32", atomic<uint32_t, Or>);
  add("atom.or.b64", atomic<uint64_t, Or>);
  add("atom.xor.b32", atomic<uint32_t, Xor>);
  add("atom.xor.b64", atomic<uint64_t, Xor>);
  add("atom.exch.b32", atomic<uint32_t, Exchange>);
  add("atom.exch.b64", atomic<uint64_t, Exchange>);
  add("atom.inc.u32", atomic<uint32_t, Increase>);
  add("atom.dec.u32", atomic<uint32_t, Decrease>);
  add("atom.cas.b16", compare_and_swap<uint16_t>);
  add("atom.cas.b32", compare_and_swap<uint32_t>);
  add("atom.cas.b64", compare_and_swap<uint64_t>);
  add("fence", fence_all);
}

}  // namespace gpu_ladder::ptx
