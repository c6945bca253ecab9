// shfl, vote, match, redux, elect. The scheduler lets them run once all lanes of the member mask,
// or all lanes left of it, are here: `mask` holds them. The member mask is the last operand.
#include <algorithm>
#include <bit>
#include <string>

#include "machine.h"
#include "numbers.h"

namespace gpu_ladder::ptx {
namespace {

enum Shuffle : std::uint32_t { up, down, butterfly, indexed };

// shfl d|p, a, b, c, membermask: c holds the last lane of a segment and the mask of its bits.
void shuffle(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const std::uint32_t* a = warp.operand<std::uint32_t>(instruction, 2);
  const std::uint32_t* b = warp.operand<std::uint32_t>(instruction, 3);
  const std::uint32_t* c = warp.operand<std::uint32_t>(instruction, 4);
  std::uint32_t result[kLanes] = {};
  std::uint32_t in_range = 0;
  std::uint32_t outside = 0;  // lanes that read one which does not take part
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    if (((mask >> lane) & 1u) == 0) continue;
    const std::uint32_t segment = (c[lane] >> 8) & 31u;
    const std::uint32_t clamp = c[lane] & 31u;
    const std::uint32_t amount = b[lane] & 31u;
    const std::uint32_t largest = (lane & segment) | (clamp & ~segment);
    const std::uint32_t smallest = lane & segment;
    std::uint32_t from = 0;
    bool valid = false;
    switch (mode(instruction)) {
      case up:
        from = lane - amount;
        valid = static_cast<std::int32_t>(from) >= static_cast<std::int32_t>(largest);
        break;
      case down:
        from = lane + amount;
        valid = from <= largest;
        break;
      case butterfly:
        from = lane ^ amount;
        valid = from <= largest;
        break;
      default:
        from = smallest | (amount & ~segment);
        valid = from <= largest;
    }
    if (!valid) from = lane;
    if (valid) in_range |= 1u << lane;
    if (((mask >> from) & 1u) == 0) outside |= 1u << lane;
    result[lane] = a[from & 31u];
  }
  if (outside != 0)
    warp.machine->report(
        Finding::Kind::divergent_collective,
        "shfl.sync: lanes " + lane_list(outside) + " of warp " + std::to_string(warp.index) +
            " read a lane that does not take part (present: " + lane_list(mask) + ")",
        instruction);
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask,
            [&](std::uint32_t lane) { return result[lane]; });
  store_predicate(warp, instruction.operands[1], mask, in_range);
}

enum Vote : std::uint32_t { all, any, uniform, ballot };

void vote(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  std::uint32_t bits = *warp.operand<std::uint32_t>(instruction, 1);
  if ((instruction.attributes & kNegated) != 0) bits = ~bits;
  bits &= mask;
  const std::uint32_t how = mode(instruction);
  if (how == ballot) {
    for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask,
              [&](std::uint32_t) { return bits; });
    return;
  }
  const bool result = how == all   ? bits == mask
                      : how == any ? bits != 0
                                   : bits == 0 || bits == mask;
  store_predicate(warp, instruction.operands[0], mask, result ? kAllLanes : 0u);
}

// match.any: the lanes with the same value; match.all: all of them, if all are equal, and a
// predicate.
template <class T, bool requires_all>
void match(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 2);
  std::uint32_t same[kLanes] = {};
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    for (std::uint32_t other = 0; other < kLanes; ++other)
      if (((mask >> other) & 1u) != 0 && a[other] == a[lane]) same[lane] |= 1u << other;
  const bool all_equal = same[std::countr_zero(mask) & 31] == mask;
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask, [&](std::uint32_t lane) {
    return requires_all ? (all_equal ? mask : 0u) : same[lane];
  });
  store_predicate(warp, instruction.operands[1], mask, all_equal ? kAllLanes : 0u);
}

struct Add {
  template <class T>
  static T apply(T a, T b) {
    return static_cast<T>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
  }
};
struct Minimum {
  template <class T>
  static T apply(T a, T b) {
    return b < a ? b : a;
  }
};
struct Maximum {
  template <class T>
  static T apply(T a, T b) {
    return a < b ? b : a;
  }
};
struct And {
  static std::uint32_t apply(std::uint32_t a, std::uint32_t b) { return a & b; }
};
struct Or {
  static std::uint32_t apply(std::uint32_t a, std::uint32_t b) { return a | b; }
};
struct Xor {
  static std::uint32_t apply(std::uint32_t a, std::uint32_t b) { return a ^ b; }
};
template <class T, class Operation>
void reduce(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const T* a = warp.operand<T>(instruction, 1);
  T result = a[std::countr_zero(mask) & 31];
  for (std::uint32_t lane = static_cast<std::uint32_t>(std::countr_zero(mask)) + 1; lane < kLanes;
       ++lane)
    if (((mask >> lane) & 1u) != 0) result = Operation::apply(result, a[lane]);
  for_lanes(warp.operand<T>(instruction, 0), mask, [&](std::uint32_t) { return result; });
}
// min and max of floats; .abs compares magnitudes, .NaN lets a NaN win.
template <bool is_maximum>
void reduce_float(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const float* a = warp.operand<float>(instruction, 1);
  const bool magnitudes = (instruction.attributes & kAbsolute) != 0;
  const bool propagate = (instruction.attributes & kNan) != 0;
  bool first = true;
  float result = 0.0f;
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    if (((mask >> lane) & 1u) == 0) continue;
    const float value = magnitudes ? std::fabs(a[lane]) : a[lane];
    result = first ? value : extremum<is_maximum>(result, value, propagate);
    first = false;
  }
  result = canonical(result);
  for_lanes(warp.operand<float>(instruction, 0), mask, [&](std::uint32_t) { return result; });
}

// elect.sync d|p: PTX leaves the choice open; devices take the lowest lane.
void elect(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const auto leader = static_cast<std::uint32_t>(std::countr_zero(mask));
  for_lanes(warp.operand<std::uint32_t>(instruction, 0), mask,
            [&](std::uint32_t) { return leader; });
  store_predicate(warp, instruction.operands[1], mask, 1u << leader);
}

}  // namespace

void add_collective_operations(Operations& list) {
  using std::int32_t, std::uint32_t, std::uint64_t;
  const auto add = [&](const char* name, Handler handler) {
    list.push_back({name, handler, Kind::collective});
  };
  add("shfl", shuffle);
  add("vote", vote);
  add("match.any.b32", match<uint32_t, false>);
  add("match.any.b64", match<uint64_t, false>);
  add("match.all.b32", match<uint32_t, true>);
  add("match.all.b64", match<uint64_t, true>);
  add("redux.add.u32", reduce<uint32_t, Add>);
  add("redux.add.s32", reduce<int32_t, Add>);
  add("redux.min.u32", reduce<uint32_t, Minimum>);
  add("redux.min.s32", reduce<int32_t, Minimum>);
  add("redux.max.u32", reduce<uint32_t, Maximum>);
  add("redux.max.s32", reduce<int32_t, Maximum>);
  add("redux.and.b32", reduce<uint32_t, And>);
  add("redux.or.b32", reduce<uint32_t, Or>);
  add("redux.xor.b32", reduce<uint32_t, Xor>);
  add("redux.min.f32", reduce_float<false>);
  add("redux.max.f32", reduce_float<true>);
  add("elect", elect);
}

}  // namespace gpu_ladder::ptx
