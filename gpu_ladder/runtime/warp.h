// The lanes of a warp that meet in a collective, and what each takes away: part of the host model.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "host_model.h"
#include "schedule.h"

namespace gpu_ladder {

struct Warp {
  struct Lane {
    Place place;
    Collective what;
    std::uint32_t mask;
    std::uint32_t source;
    std::uint64_t value;
    std::uint64_t result;
  };

  std::uint32_t alive = 0;
  std::uint32_t waiting = 0;  // in a collective
  std::array<Lane, warp_threads> lanes = {};

  // Whether all lanes that this one waits for are there, and wait for the same.
  bool is_complete(unsigned lane) const {
    const std::uint32_t needed = lanes[lane].mask & alive;
    if ((waiting & needed) != needed) return false;
    for (std::uint32_t rest = needed; rest != 0; rest &= rest - 1) {
      const auto other = static_cast<unsigned>(std::countr_zero(rest));
      if (lanes[other].mask != lanes[lane].mask) return false;
    }
    return true;
  }

  // Fills in the results of all lanes in `present`.
  void exchange(Collective what, std::uint32_t present) {
    if (what == Collective::synchronise) return;
    if (what == Collective::shuffle || what == Collective::match) {
      for_each(present, [&](Lane& lane) {
        lane.result = what == Collective::shuffle ? lanes[lane.source].value
                                                  : equal_lanes(present, lane.value);
      });
      return;
    }
    std::uint64_t total = 0;
    bool first = true;
    for (std::uint32_t rest = present; rest != 0; rest &= rest - 1) {
      const auto index = static_cast<unsigned>(std::countr_zero(rest));
      const std::uint64_t value = what == Collective::ballot
                                      ? (lanes[index].value != 0 ? 1u : 0u) << index
                                      : lanes[index].value;
      total = first ? value : combine(what, total, value);
      first = false;
    }
    for_each(present, [&](Lane& lane) { lane.result = total; });
  }

 private:
  template <class Function>
  void for_each(std::uint32_t mask, Function function) {
    for (; mask != 0; mask &= mask - 1)
      function(lanes[static_cast<unsigned>(std::countr_zero(mask))]);
  }
  std::uint64_t equal_lanes(std::uint32_t present, std::uint64_t value) const {
    std::uint32_t equal = 0;
    for (std::uint32_t rest = present; rest != 0; rest &= rest - 1) {
      const auto index = static_cast<unsigned>(std::countr_zero(rest));
      if (lanes[index].value == value) equal |= 1u << index;
    }
    return equal;
  }
  static std::uint64_t combine(Collective what, std::uint64_t left, std::uint64_t right) {
    const auto a = static_cast<std::uint32_t>(left);
    const auto b = static_cast<std::uint32_t>(right);
    const auto signed_a = static_cast<std::int32_t>(a);
    const auto signed_b = static_cast<std::int32_t>(b);
    switch (what) {
      case Collective::add:
        return a + b;
      case Collective::min_signed:
        return signed_b < signed_a ? b : a;
      case Collective::min_unsigned:
        return b < a ? b : a;
      case Collective::max_signed:
        return signed_b > signed_a ? b : a;
      case Collective::max_unsigned:
        return b > a ? b : a;
      case Collective::bit_and:
        return a & b;
      case Collective::ballot:
      case Collective::bit_or:
        return a | b;
      case Collective::bit_xor:
        return a ^ b;
      default:
        return 0;
    }
  }
};

}  // namespace gpu_ladder
