// A warp: its register file, and the groups of lanes that share a program counter.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "program.h"

namespace gpu_ladder::ptx {

class Machine;

enum class Wait : std::uint8_t { none, collective, warp_barrier, aligned_barrier, block_barrier };

struct Group {
  std::uint32_t pc = 0;
  std::uint32_t mask = 0;
  Wait wait = Wait::none;
  std::uint32_t barrier = 0;  // which named barrier it waits at
  std::uint64_t last_run = 0;
};

struct AsynchronousCopy {
  std::uint64_t target;  // offset in shared memory
  std::uint64_t source;
  std::uint32_t bytes;
  std::uint32_t source_bytes;  // the rest is filled with zeros
  const Instruction* instruction;
};

class Warp {
 public:
  Machine* machine = nullptr;
  std::uint8_t* registers = nullptr;
  std::uint8_t* local = nullptr;  // of lane 0; the lanes follow one another
  std::uint32_t index = 0;        // within the block
  std::uint32_t alive = 0;
  std::uint32_t born = 0;
  std::uint32_t carry = 0;   // the carry flag of add.cc, a bit for each lane
  std::uint32_t streak = 0;  // instructions run while other groups waited
  std::vector<Group> groups;
  // For each lane: the copies of each committed group, and last those of the group still open.
  std::array<std::vector<std::vector<AsynchronousCopy>>, kLanes> copies;

  template <class T>
  T* slot(std::uint32_t offset) const {
    return reinterpret_cast<T*>(registers + offset);
  }
  template <class T>
  T* operand(const Instruction& instruction, std::uint32_t index_of) const {
    return slot<T>(instruction.operands[index_of]);
  }
};

// Evaluates `value(lane)` for every lane and stores it where the mask says so. Lanes outside the
// mask are computed too, because a loop without branches is a few vector instructions; `value` must
// not trap.
template <class T, class F>
inline __attribute__((always_inline)) void for_lanes(T* destination, std::uint32_t mask, F value) {
  if (mask == kAllLanes) {
#pragma GCC ivdep
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) destination[lane] = value(lane);
  } else {
#pragma GCC ivdep
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      const T computed = value(lane);
      destination[lane] = ((mask >> lane) & 1u) != 0 ? computed : destination[lane];
    }
  }
}

// The predicate of every lane as one mask.
template <class F>
inline __attribute__((always_inline)) std::uint32_t gather_bits(F condition) {
  std::uint32_t bits = 0;
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    bits |= static_cast<std::uint32_t>(static_cast<bool>(condition(lane))) << lane;
  return bits;
}

inline void store_predicate(Warp& warp, std::uint32_t offset, std::uint32_t mask,
                            std::uint32_t bits) {
  std::uint32_t* predicate = warp.slot<std::uint32_t>(offset);
  *predicate = (*predicate & ~mask) | (bits & mask);
}

}  // namespace gpu_ladder::ptx
