// The machine: one grid at a time, one block at a time, its warps in lockstep.
#pragma once

#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "../../runtime/memory_model.h"
#include "attributes.h"
#include "program.h"
#include "warp.h"

namespace gpu_ladder::ptx {

enum class Schedule : std::uint32_t { forward, reverse, random };

// Plain numbers, so that it can be filled through ctypes.
struct Launch {
  std::uint32_t grid[3];
  std::uint32_t block[3];
  std::uint64_t shared_bytes;  // static and dynamic
  std::uint64_t dynamic_shared_bytes;
  const void* parameters;
  std::uint64_t parameter_bytes;
  std::uint8_t* variables;  // .global and .const
  std::uint64_t variable_bytes;
  std::uint64_t budget;  // of warp instructions
  std::uint64_t seed;
  std::uint32_t schedule;
  std::uint32_t checks;
};

enum class SpecialRegister : std::uint32_t {
  thread_x,
  thread_y,
  thread_z,
  block_threads_x,
  block_threads_y,
  block_threads_z,
  block_x,
  block_y,
  block_z,
  grid_blocks_x,
  grid_blocks_y,
  grid_blocks_z,
  lane,
  warp,
  warps,
  lanes_equal,
  lanes_less_equal,
  lanes_less,
  lanes_greater_equal,
  lanes_greater,
  multiprocessor,
  multiprocessors,
  grid_number,
  total_shared,
  dynamic_shared,
  zero,
  one
};

// What stopped a grid before its end.
enum class Outcome : std::uint32_t { finished, stuck, budget_spent, trapped };

// "0-15,31": a mask of lanes in messages.
std::string lane_list(std::uint32_t lanes);

class Machine {
 public:
  Machine();
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  Outcome run(const Program& program, const Launch& launch);
  MemoryModel& model() { return model_; }
  std::uint64_t executed() const { return executed_; }

  // Used by instructions.
  const Program& program() const { return *program_; }
  bool checks() const { return checks_; }
  Schedule schedule() const { return schedule_; }
  std::uint8_t* shared() const { return shared_; }
  std::uint64_t shared_size() const { return launch_.shared_bytes; }
  std::uint64_t local_window() const { return local_window_; }
  std::uint32_t site(const Instruction& instruction, std::uint32_t part = 0) const;
  void fence(const Warp& warp, std::uint32_t mask);
  void trap(const Instruction& instruction);
  void report(Finding::Kind kind, const std::string& message, const Instruction& instruction);
  // Pointers for the lanes of `mask`; returns those that may be used. `values`: see WarpAccess.
  struct Request {
    StateSpace space;
    std::uint32_t bytes;
    bool write;
    bool atomic;
    bool blind;
    std::uint32_t part = 0;
    const void* const* values = nullptr;
  };
  std::uint32_t resolve(Warp& warp, const Instruction& instruction, std::uint32_t mask,
                        const std::uint64_t* addresses, const Request& request,
                        std::uint8_t** pointers);
  // The addresses that an instruction's address operand and offset give.
  void addresses(Warp& warp, const Instruction& instruction, std::uint32_t operand,
                 std::uint64_t* out) const;
  StateSpace space_of(std::uint64_t generic) const;
  // In which order the lanes of one atomic instruction take effect.
  std::array<std::uint8_t, kLanes> lane_order();

  // Writes to shared memory that are done later: what stands there is lost until then.
  void begin_writes(Warp& warp, const Instruction& instruction, std::uint32_t mask,
                    const std::uint64_t* targets, std::uint32_t bytes);

 private:
  void prepare();
  void fill_constants(bool only_block, const std::uint32_t (&block)[3]);
  void begin_block(std::uint32_t block);

  void run_block();
  std::size_t pick_warp(std::size_t last);
  void run_warp(Warp& warp, std::uint32_t quantum);
  std::size_t pick_group(Warp& warp);
  void run_group(Warp& warp, std::size_t index, std::uint32_t quantum);
  bool control(Warp& warp, std::size_t index, const Instruction& instruction, std::uint32_t mask);
  void part(Warp& warp, std::size_t index, std::uint32_t taken, std::uint32_t target);
  void scatter(Warp& warp, std::size_t index, std::uint32_t mask, const std::uint32_t* targets);
  void leave(Warp& warp, std::size_t index, std::uint32_t mask);

  // Each returns whether the group goes on as it is; otherwise the groups have changed.
  bool synchronise(Warp& warp, std::size_t index, const Instruction& instruction);
  bool arrive_at_barrier(Warp& warp, std::size_t index, const Instruction& instruction);
  void gather(Warp& warp, std::size_t index, const Instruction& instruction,
              std::uint32_t* members);
  void perform(Warp& warp, const Instruction& instruction, std::uint32_t mask);
  void try_release(std::uint32_t number);
  void report_stuck();
  std::string name(const Instruction& instruction) const;

  struct Barrier {
    std::uint32_t arrived = 0;
    std::uint32_t expected = 0;  // 0: every thread of the block
    std::uint32_t votes = 0;
    bool all = true;
    const Instruction* first = nullptr;
  };

  MemoryModel model_;
  const Program* program_ = nullptr;
  Launch launch_{};
  bool checks_ = false;
  Schedule schedule_ = Schedule::forward;
  std::mt19937_64 random_;
  std::vector<std::uint8_t> shared_storage_;
  std::uint8_t* shared_ = nullptr;
  std::uint64_t local_window_ = 0;
  std::vector<std::uint8_t> register_storage_;
  std::vector<std::uint8_t> local_storage_;
  std::vector<Warp> warps_;
  std::array<Barrier, 16> barriers_{};
  std::uint32_t threads_ = 0;
  std::uint32_t alive_ = 0;
  std::uint64_t executed_ = 0;
  std::uint64_t grid_number_ = 0;
  Outcome outcome_ = Outcome::finished;
};

}  // namespace gpu_ladder::ptx
