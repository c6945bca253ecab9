// Which thread goes on next, of those of a block that can: part of the host model.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "host_model.h"

namespace gpu_ladder {

inline constexpr unsigned warp_threads = 32;
inline constexpr unsigned most_threads = 1024;
inline constexpr unsigned no_thread = ~0u;

// xorshift64*: the same numbers on every machine.
class RandomNumbers {
 public:
  void seed(std::uint64_t value) { state_ = value * 0x9e3779b97f4a7c15u + 1; }
  std::uint32_t operator()() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<std::uint32_t>(state_ * 0x2545f4914f6cdd1du >> 32);
  }
  std::uint32_t below(std::uint32_t limit) {
    return static_cast<std::uint32_t>(std::uint64_t{(*this)()} * limit >> 32);
  }

 private:
  std::uint64_t state_ = 1;
};

// A set of threads, by warps.
class ReadyThreads {
 public:
  void clear() {
    lanes_.fill(0);
    warps_ = 0;
  }
  bool empty() const { return warps_ == 0; }
  void add(unsigned thread) { add_lanes(thread / warp_threads, 1u << (thread % warp_threads)); }
  void add_lanes(unsigned warp, std::uint32_t mask) {
    lanes_[warp] |= mask;
    warps_ |= 1u << warp;
  }
  // Forward: the first; reverse: the last; random: any.
  unsigned take(Schedule schedule, RandomNumbers& random) {
    if (warps_ == 0) return no_thread;
    const unsigned warp = choose(warps_, schedule, random);
    const unsigned lane = choose(lanes_[warp], schedule, random);
    return remove(warp, lane);
  }
  // The first after `thread`, or else the first of all, so that everyone has a turn.
  unsigned take_after(unsigned thread) {
    if (warps_ == 0) return no_thread;
    const unsigned own = thread / warp_threads;
    const std::uint32_t later_lanes =
        lanes_[own] & static_cast<std::uint32_t>(~std::uint64_t{0} << (thread % warp_threads + 1));
    if (later_lanes != 0) return remove(own, first(later_lanes));
    const auto later_warps = warps_ & static_cast<std::uint32_t>(~std::uint64_t{0} << (own + 1));
    const unsigned warp = first(later_warps != 0 ? later_warps : warps_);
    return remove(warp, first(lanes_[warp]));
  }

 private:
  static unsigned first(std::uint32_t set) { return static_cast<unsigned>(std::countr_zero(set)); }
  static unsigned choose(std::uint32_t set, Schedule schedule, RandomNumbers& random) {
    if (schedule == Schedule::forward) return first(set);
    if (schedule == Schedule::reverse) return 31 - static_cast<unsigned>(std::countl_zero(set));
    const unsigned turn = random() % 32;
    return (first(std::rotr(set, static_cast<int>(turn))) + turn) % 32;
  }
  unsigned remove(unsigned warp, unsigned lane) {
    lanes_[warp] &= ~(1u << lane);
    if (lanes_[warp] == 0) warps_ &= ~(1u << warp);
    return warp * warp_threads + lane;
  }

  std::array<std::uint32_t, most_threads / warp_threads> lanes_ = {};
  std::uint32_t warps_ = 0;
};

// The order of the blocks of a grid.
class BlockOrder {
 public:
  BlockOrder(Schedule schedule, std::uint64_t count, RandomNumbers& random)
      : schedule_(schedule), count_(count) {
    if (schedule != Schedule::random) return;
    shuffled_.resize(count);
    for (std::uint64_t i = 0; i < count; ++i) shuffled_[i] = static_cast<std::uint32_t>(i);
    for (std::uint64_t i = count; i > 1; --i)
      std::swap(shuffled_[i - 1], shuffled_[random.below(static_cast<std::uint32_t>(i))]);
  }
  std::uint32_t operator[](std::uint64_t i) const {
    if (schedule_ == Schedule::random) return shuffled_[i];
    return static_cast<std::uint32_t>(schedule_ == Schedule::forward ? i : count_ - 1 - i);
  }

 private:
  Schedule schedule_;
  std::uint64_t count_;
  std::vector<std::uint32_t> shuffled_;
};

}  // namespace gpu_ladder
