// cp.async. A copy is performed only where its thread waits for it, the latest that a device may:
// until then the shared memory holds NaNs, and counts as memory that nothing wrote.
#include <algorithm>
#include <cstring>
#include <string>

#include "machine.h"

namespace gpu_ladder::ptx {
namespace {

// cp.async [shared], [global], size{, source size}: the first address is operand 0, the second 1.
// The offsets share `immediate`, 32 bits each; the size is in `target`.
void start(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  const auto target_offset = static_cast<std::int32_t>(instruction.immediate);
  const auto source_offset = static_cast<std::int32_t>(instruction.immediate >> 32);
  const bool narrow = (instruction.attributes & kAddress32) != 0;
  const std::uint64_t* source = warp.operand<std::uint64_t>(instruction, 1);
  const std::uint32_t* source_bytes =
      instruction.operand_count > 2 ? warp.operand<std::uint32_t>(instruction, 2) : nullptr;
  std::uint64_t targets[kLanes] = {};
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    if (((mask >> lane) & 1u) == 0) continue;
    auto& groups = warp.copies[lane];
    if (groups.empty()) groups.emplace_back();
    const std::uint64_t base =
        narrow ? std::uint64_t{warp.operand<std::uint32_t>(instruction, 0)[lane]}
               : warp.operand<std::uint64_t>(instruction, 0)[lane];
    const std::uint32_t wanted = source_bytes != nullptr
                                     ? std::min(source_bytes[lane], instruction.target)
                                     : instruction.target;
    targets[lane] = base + static_cast<std::uint64_t>(std::int64_t{target_offset});
    groups.back().push_back({targets[lane],
                             source[lane] + static_cast<std::uint64_t>(std::int64_t{source_offset}),
                             instruction.target, wanted, &instruction});
  }
  warp.machine->begin_writes(warp, instruction, mask, targets, instruction.target);
}

void commit(Warp& warp, const Instruction&, std::uint32_t mask) {
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    if (((mask >> lane) & 1u) == 0) continue;
    auto& groups = warp.copies[lane];
    if (groups.empty()) groups.emplace_back();
    groups.emplace_back();
  }
}

// Performs one copy for each lane of `mask`; they all come from the same instruction.
void perform(Warp& warp, std::uint32_t mask, const AsynchronousCopy* const* copies) {
  Machine& machine = *warp.machine;
  const AsynchronousCopy* first = nullptr;
  std::uint64_t sources[kLanes] = {};
  std::uint64_t targets[kLanes] = {};
  std::uint32_t reads[kLanes] = {};
  std::uint8_t data[kLanes][16] = {};
  const void* values[kLanes];
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    values[lane] = data[lane];
    if (((mask >> lane) & 1u) == 0) continue;
    first = copies[lane];
    sources[lane] = first->source;
    targets[lane] = first->target;
    reads[lane] = first->source_bytes;
  }
  std::uint8_t* pointers[kLanes];
  // Lanes that read equally many bytes are one request; fewer than all are the tail of a row.
  for (std::uint32_t left = mask; left != 0;) {
    const std::uint32_t bytes = reads[__builtin_ctz(left)];
    std::uint32_t same = 0;
    for (std::uint32_t lane = 0; lane < kLanes; ++lane)
      if (((left >> lane) & 1u) != 0 && reads[lane] == bytes) same |= 1u << lane;
    left &= ~same;
    if (bytes == 0) continue;
    const std::uint32_t allowed = machine.resolve(warp, *first->instruction, same, sources,
                                                  {.space = StateSpace::global,
                                                   .bytes = bytes,
                                                   .write = false,
                                                   .atomic = false,
                                                   .blind = false},
                                                  pointers);
    for (std::uint32_t lane = 0; lane < kLanes; ++lane)
      if (((allowed >> lane) & 1u) != 0) std::memcpy(data[lane], pointers[lane], bytes);
  }
  const std::uint32_t allowed = machine.resolve(warp, *first->instruction, mask, targets,
                                                {.space = StateSpace::shared,
                                                 .bytes = first->bytes,
                                                 .write = true,
                                                 .atomic = false,
                                                 .blind = false,
                                                 .part = 1,
                                                 .values = values},
                                                pointers);
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    if (((allowed >> lane) & 1u) != 0) std::memcpy(pointers[lane], data[lane], first->bytes);
}

// Performs all but the last `remaining` committed groups, copy by copy for all lanes at once.
void finish(Warp& warp, std::uint32_t mask, std::size_t remaining) {
  std::array<std::vector<AsynchronousCopy>, kLanes> due;
  std::size_t longest = 0;
  for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
    if (((mask >> lane) & 1u) == 0) continue;
    auto& groups = warp.copies[lane];
    while (groups.size() > remaining + 1) {
      due[lane].insert(due[lane].end(), groups.front().begin(), groups.front().end());
      groups.erase(groups.begin());
    }
    longest = std::max(longest, due[lane].size());
  }
  for (std::size_t index = 0; index < longest; ++index) {
    const AsynchronousCopy* copies[kLanes] = {};
    std::uint32_t left = 0;
    for (std::uint32_t lane = 0; lane < kLanes; ++lane)
      if (index < due[lane].size()) {
        copies[lane] = &due[lane][index];
        left |= 1u << lane;
      }
    while (left != 0) {
      const Instruction* instruction = copies[__builtin_ctz(left)]->instruction;
      std::uint32_t same = 0;
      for (std::uint32_t lane = 0; lane < kLanes; ++lane)
        if (((left >> lane) & 1u) != 0 && copies[lane]->instruction == instruction)
          same |= 1u << lane;
      left &= ~same;
      perform(warp, same, copies);
    }
  }
  // Where another copy is on its way to the same place, nobody knows what is there.
  for (std::uint32_t lane = 0; lane < kLanes; ++lane)
    for (const auto& group : warp.copies[lane])
      for (const AsynchronousCopy& later : group)
        for (const AsynchronousCopy& done : due[lane])
          if (later.target < done.target + done.bytes && done.target < later.target + later.bytes) {
            std::uint64_t targets[kLanes] = {};
            targets[lane] = later.target;
            warp.machine->begin_writes(warp, *later.instruction, 1u << lane, targets, later.bytes);
          }
}

void wait_group(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  finish(warp, mask, static_cast<std::size_t>(instruction.immediate));
}
void wait_all(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  commit(warp, instruction, mask);
  finish(warp, mask, 0);
}

}  // namespace

void add_copy_operations(Operations& list) {
  list.push_back({"cp.async", start, Kind::plain});
  list.push_back({"cp.async.commit_group", commit, Kind::plain});
  list.push_back({"cp.async.wait_group", wait_group, Kind::plain});
  list.push_back({"cp.async.wait_all", wait_all, Kind::plain});
}

}  // namespace gpu_ladder::ptx
