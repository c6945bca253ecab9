// Which warp runs, which of its groups of lanes, and where groups part and meet.
//
// Of the groups of a warp the one with the lowest program counter runs, so that the others wait
// where the paths join again. That alone could starve a group that another one waits for: a group
// that has run very long gives way to the one that has waited longest.
#include <algorithm>

#include "machine.h"

namespace gpu_ladder::ptx {
namespace {

constexpr std::uint32_t kUnlimited = 0xffffffffu;
constexpr std::uint32_t kSlice = 1u << 16;  // before another warp runs
constexpr std::uint32_t kPatience = 10000;  // before another group of the warp runs
constexpr std::uint32_t kTurn = 256;        // and for how long it then does
constexpr std::uint32_t kRandomSlice = 64;

bool runnable(const Warp& warp) {
  return std::any_of(warp.groups.begin(), warp.groups.end(),
                     [](const Group& group) { return group.wait == Wait::none; });
}

}  // namespace

void Machine::run_block() {
  std::size_t last = schedule_ == Schedule::reverse ? 0 : warps_.size() - 1;
  while (alive_ > 0 && outcome_ == Outcome::finished) {
    const std::size_t next = pick_warp(last);
    if (next == warps_.size()) {
      report_stuck();
      outcome_ = Outcome::stuck;
      return;
    }
    last = next;
    const std::uint32_t quantum = schedule_ == Schedule::random
                                      ? 1 + static_cast<std::uint32_t>(random_() % kRandomSlice)
                                      : kSlice;
    run_warp(warps_[next], quantum);
    if (executed_ > launch_.budget && outcome_ == Outcome::finished) {
      const Group& group = warps_[next].groups.empty() ? Group{} : warps_[next].groups.front();
      report(Finding::Kind::deadlock,
             "stopped after " + std::to_string(executed_) +
                 " warp instructions, the budget of this launch; warp " + std::to_string(next) +
                 " was running",
             program_->code[group.pc]);
      outcome_ = Outcome::budget_spent;
    }
  }
}

// The next one in the schedule's order that can run; the number of warps if there is none.
std::size_t Machine::pick_warp(std::size_t last) {
  const std::size_t count = warps_.size();
  std::size_t first = 0;
  std::size_t step = 1;
  if (schedule_ == Schedule::forward) {
    first = (last + 1) % count;
  } else if (schedule_ == Schedule::reverse) {
    first = (last + count - 1) % count;
    step = count - 1;
  } else {
    first = random_() % count;
  }
  if (count == 1) step = 1;
  for (std::size_t tried = 0; tried < count; ++tried) {
    const std::size_t candidate = (first + tried * step) % count;
    if (runnable(warps_[candidate])) return candidate;
  }
  return count;
}

void Machine::run_warp(Warp& warp, std::uint32_t quantum) {
  const std::uint64_t end = executed_ + quantum;
  while (outcome_ == Outcome::finished && executed_ < end) {
    const std::size_t index = pick_group(warp);
    if (index == warp.groups.size()) return;
    std::uint32_t turn = static_cast<std::uint32_t>(end - executed_);
    if (warp.groups.size() > 1) turn = std::min(turn, warp.streak >= kPatience ? kTurn : kPatience);
    const std::uint64_t before = executed_;
    warp.groups[index].last_run = executed_;
    const bool many = warp.groups.size() > 1;
    run_group(warp, index, turn);
    const auto ran = static_cast<std::uint32_t>(executed_ - before);
    if (!many)
      warp.streak = 0;
    else if (warp.streak >= kPatience)
      warp.streak = kPatience - std::min(kPatience, 4 * kTurn);
    else
      warp.streak += ran;
  }
}

std::size_t Machine::pick_group(Warp& warp) {
  std::vector<Group>& groups = warp.groups;
  if (groups.empty()) return 0;
  if (groups.size() == 1) return groups[0].wait == Wait::none ? 0 : 1;
  for (std::size_t one = 0; one < groups.size(); ++one)
    for (std::size_t other = groups.size() - 1; other > one; --other)
      if (groups[one].wait == Wait::none && groups[other].wait == Wait::none &&
          groups[one].pc == groups[other].pc) {
        groups[one].mask |= groups[other].mask;
        groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(other));
      }
  const bool at_random = schedule_ == Schedule::random && random_() % 8 == 0;
  const std::size_t lot = at_random ? random_() % groups.size() : 0;
  std::size_t chosen = groups.size();
  for (std::size_t step = 0; step < groups.size(); ++step) {
    const std::size_t index = (lot + step) % groups.size();
    if (groups[index].wait != Wait::none) continue;
    if (at_random) return index;
    if (chosen == groups.size() ||
        (warp.streak >= kPatience ? groups[index].last_run < groups[chosen].last_run
                                  : groups[index].pc < groups[chosen].pc))
      chosen = index;
  }
  return chosen;
}

void Machine::run_group(Warp& warp, std::size_t index, std::uint32_t quantum) {
  // Where the next group waits: there the two may join.
  std::uint32_t meeting = kUnlimited;
  for (const Group& other : warp.groups)
    if (other.wait == Wait::none && other.pc > warp.groups[index].pc)
      meeting = std::min(meeting, other.pc);
  const Instruction* const code = program_->code.data();
  std::uint32_t pc = warp.groups[index].pc;
  const std::uint32_t all = warp.groups[index].mask;
  for (; quantum > 0; --quantum) {
    const Instruction& instruction = code[pc];
    std::uint32_t mask = all;
    if (instruction.guard != kNone)
      mask &= *warp.slot<std::uint32_t>(instruction.guard) ^ instruction.guard_flip;
    ++executed_;
    if (mask == 0) {
      ++pc;
    } else if (instruction.kind == Kind::plain) [[likely]] {
      instruction.handler(warp, instruction, mask);
      ++pc;
      if (outcome_ != Outcome::finished) break;
    } else if (instruction.kind == Kind::branch && mask == all) {
      pc = instruction.target;
    } else {
      warp.groups[index].pc = pc;
      if (!control(warp, index, instruction, mask)) return;
      pc = warp.groups[index].pc;
    }
    if (pc >= meeting) break;
  }
  warp.groups[index].pc = pc;
}

// Everything but plain instructions. Returns whether the same group, with the same lanes, goes on.
bool Machine::control(Warp& warp, std::size_t index, const Instruction& instruction,
                      std::uint32_t mask) {
  Group& group = warp.groups[index];
  const auto next = group.pc + 1;
  std::uint32_t targets[kLanes];
  switch (instruction.kind) {
    case Kind::plain:
      break;
    case Kind::branch:
      part(warp, index, mask, instruction.target);
      return false;
    case Kind::branch_indexed: {
      const std::uint32_t* choice = warp.operand<std::uint32_t>(instruction, 0);
      const std::uint32_t* table = program_->branch_tables.data() + instruction.target;
      const auto entries = static_cast<std::uint32_t>(instruction.immediate);
      for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
        if (((mask >> lane) & 1u) != 0 && choice[lane] >= entries) {
          report(Finding::Kind::out_of_bounds,
                 "brx.idx: index " + std::to_string(choice[lane]) + " of a table of " +
                     std::to_string(entries),
                 instruction);
          outcome_ = Outcome::trapped;
          return false;
        }
        targets[lane] = table[choice[lane] < entries ? choice[lane] : 0];
      }
      scatter(warp, index, mask, targets);
      return false;
    }
    case Kind::call: {
      std::uint32_t* back = warp.operand<std::uint32_t>(instruction, 0);
      for (std::uint32_t lane = 0; lane < kLanes; ++lane)
        if (((mask >> lane) & 1u) != 0) back[lane] = next;
      part(warp, index, mask, instruction.target);
      return false;
    }
    case Kind::function_return:
      std::copy_n(warp.operand<std::uint32_t>(instruction, 0), kLanes, targets);
      scatter(warp, index, mask, targets);
      return false;
    case Kind::leave:
      leave(warp, index, mask);
      return false;
    case Kind::pause:
      group.pc = next;
      if (warp.groups.size() > 1) warp.streak = kPatience;
      return false;
    case Kind::collective:
    case Kind::converged:
    case Kind::warp_barrier:
    case Kind::block_barrier:
      if (mask != group.mask) {
        // The lanes that the guard leaves out go on without the others.
        const Group rest{.pc = next, .mask = group.mask & ~mask};
        group.mask = mask;
        warp.groups.push_back(rest);
        synchronise(warp, index, instruction);
        return false;
      }
      return synchronise(warp, index, instruction);
  }
  return true;
}

// The lanes of `taken` go to `target`, the others to the next instruction.
void Machine::part(Warp& warp, std::size_t index, std::uint32_t taken, std::uint32_t target) {
  Group& group = warp.groups[index];
  Group rest = group;
  rest.mask &= ~taken;
  ++rest.pc;
  group.mask = taken;
  group.pc = target;
  if (rest.mask != 0) warp.groups.push_back(rest);
}
void Machine::scatter(Warp& warp, std::size_t index, std::uint32_t mask,
                      const std::uint32_t* targets) {
  Group rest = warp.groups[index];
  rest.mask &= ~mask;
  ++rest.pc;
  bool first = true;
  for (std::uint32_t left = mask; left != 0;) {
    const std::uint32_t target = targets[__builtin_ctz(left)];
    std::uint32_t same = 0;
    for (std::uint32_t lane = 0; lane < kLanes; ++lane)
      if (((left >> lane) & 1u) != 0 && targets[lane] == target) same |= 1u << lane;
    left &= ~same;
    if (first) {
      warp.groups[index].pc = target;
      warp.groups[index].mask = same;
      first = false;
    } else {
      warp.groups.push_back({.pc = target, .mask = same});
    }
  }
  if (rest.mask != 0) warp.groups.push_back(rest);
}

void Machine::leave(Warp& warp, std::size_t index, std::uint32_t mask) {
  Group& group = warp.groups[index];
  group.mask &= ~mask;
  ++group.pc;
  warp.alive &= ~mask;
  alive_ -= static_cast<std::uint32_t>(__builtin_popcount(mask));
  if (group.mask == 0) warp.groups.erase(warp.groups.begin() + static_cast<std::ptrdiff_t>(index));
  // Lanes that waited for these may have waited long enough.
  for (Group& other : warp.groups)
    if (other.wait != Wait::block_barrier) other.wait = Wait::none;
  for (std::uint32_t number = 0; number < barriers_.size(); ++number) try_release(number);
}

}  // namespace gpu_ladder::ptx
