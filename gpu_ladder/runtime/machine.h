// The threads of one block on fibers: part of the host model.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "fiber.h"
#include "host_model.h"
#include "schedule.h"
#include "warp.h"

namespace gpu_ladder {

inline constexpr std::size_t most_shared_bytes = 256 << 10;

struct Thread : RunningThread {
  Fiber fiber;
  uint3 place;
  unsigned atomics = 0;
  bool at_barrier = false;
  Place barrier = {};
  // Those of each committed group, and last those of the group still open.
  std::vector<std::vector<Copy>> copies;
};

struct Barrier {
  unsigned arrived = 0;
  unsigned predicates = 0;
  int result = 0;
  bool diverged = false;
  Place first = {};
  unsigned first_thread = 0;
};

class Machine {
 public:
  MemoryModel model;
  Schedule schedule = Schedule::forward;
  std::uint64_t seed = 0;

  Thread* current = nullptr;
  uint3 block = {};
  dim3 block_size = {};
  dim3 grid_size = {};

  Machine();
  int run(const Launch& launch);
  void* shared() { return shared_; }
  int barrier(const Place& place, bool predicate);
  std::uint64_t collective(const Place& place, Collective what, unsigned mask, std::uint64_t value,
                           unsigned source);
  void begin_copy(const Copy& copy);
  void wait_for_copies(std::size_t left);
  void count_atomic(const void* return_address);
  void give_up(int error);

 private:
  void run_block(std::uint32_t index);
  static void thread_entry();
  void finish_thread();
  Access write_of(const Copy& copy) const;
  void go_on(bool last = false);
  void release_barrier();
  void release_collective(unsigned warp, unsigned lane);
  void release_what_waits(unsigned warp);
  void check_collective(unsigned warp, unsigned first_lane, std::uint32_t present);
  void report(Finding::Kind kind, const Place& place, const std::string& what);
  void report_deadlock();
  std::string thread_name(unsigned thread) const;
  std::string block_name() const;
  unsigned linear_block() const {
    return block.x + grid_size.x * (block.y + grid_size.y * block.z);
  }

  const Launch* launch_ = nullptr;
  RandomNumbers random_;
  std::deque<Thread> threads_;
  std::array<Warp, most_threads / warp_threads> warps_;
  ReadyThreads ready_;
  Barrier barrier_;
  unsigned size_ = 0;   // threads of a block
  unsigned alive_ = 0;  // of them, those that have not returned
  unsigned turns_ = 0;  // given away since the last progress
  int error_ = 0;
  Fiber host_;
  alignas(1024) unsigned char shared_[most_shared_bytes];
};

// One for the program; never destroyed, since kernels may still run while the process ends.
extern Machine& machine;

}  // namespace gpu_ladder
