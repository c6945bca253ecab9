// Where lanes and warps wait for one another: collectives, warp barriers, block barriers.
#include <algorithm>
#include <bit>

#include "machine.h"

namespace gpu_ladder::ptx {
namespace {

enum BarrierMode : std::uint32_t { sync, arrive, reduce_and, reduce_or, reduce_count };
constexpr std::uint32_t kAligned = kWrap;  // the bit is free for barriers

}  // namespace

bool Machine::synchronise(Warp& warp, std::size_t index, const Instruction& instruction) {
  if (instruction.kind == Kind::block_barrier) return arrive_at_barrier(warp, index, instruction);
  const std::uint32_t mask = warp.groups[index].mask;
  std::uint32_t members[kLanes];
  if (instruction.kind == Kind::converged)
    std::fill_n(members, kLanes, warp.born);
  else
    std::copy_n(warp.operand<std::uint32_t>(instruction, instruction.operand_count - 1), kLanes,
                members);
  const bool everyone =
      std::all_of(members, members + kLanes, [&](std::uint32_t member) { return member == mask; });
  if (everyone) {
    perform(warp, instruction, mask);
    ++warp.groups[index].pc;
    return true;
  }
  gather(warp, index, instruction, members);
  return false;
}

void Machine::perform(Warp& warp, const Instruction& instruction, std::uint32_t mask) {
  if (instruction.kind != Kind::warp_barrier)
    instruction.handler(warp, instruction, mask);
  else if (checks_)
    model_.warp_sync(warp.index, mask);
}

// The group joins those that wait at the same instruction (at any instruction of its kind, for a
// warp barrier). Lanes whose member mask is complete go on.
void Machine::gather(Warp& warp, std::size_t index, const Instruction& instruction,
                     std::uint32_t* members) {
  const std::uint32_t pc = warp.groups[index].pc;
  const bool any_place = instruction.kind == Kind::warp_barrier;
  const Wait wait = any_place ? Wait::warp_barrier : Wait::collective;
  warp.groups[index].wait = wait;
  std::uint32_t present = 0;
  for (const Group& group : warp.groups)
    if (group.wait == wait && (any_place || group.pc == pc)) {
      present |= group.mask;
      if (!any_place || group.pc == pc) continue;
      const Instruction& other = program_->code[group.pc];
      const std::uint32_t* theirs = warp.operand<std::uint32_t>(other, other.operand_count - 1);
      for (std::uint32_t lane = 0; lane < kLanes; ++lane)
        if (((group.mask >> lane) & 1u) != 0) members[lane] = theirs[lane];
    }
  for (std::uint32_t left = present; left != 0;) {
    const std::uint32_t wanted = members[std::countr_zero(left)];
    std::uint32_t same = 0;
    for (std::uint32_t lane = 0; lane < kLanes; ++lane)
      if (((left >> lane) & 1u) != 0 && members[lane] == wanted) same |= 1u << lane;
    left &= ~same;
    if ((wanted & warp.alive & ~same) != 0) continue;
    if ((same & ~wanted) != 0)
      report(Finding::Kind::divergent_collective,
             "lanes " + lane_list(same & ~wanted) + " of warp " + std::to_string(warp.index) +
                 " use a member mask that does not name them",
             instruction);
    const std::uint32_t gone = wanted & warp.born & ~warp.alive;
    if (gone != 0)
      report(Finding::Kind::divergent_collective,
             "lanes " + lane_list(gone) + " of warp " + std::to_string(warp.index) +
                 " are in the member mask, but have exited",
             instruction);
    perform(warp, instruction, same);
    for (std::size_t place = 0; place < warp.groups.size(); ++place) {
      Group& group = warp.groups[place];
      if (group.wait != wait || (!any_place && group.pc != pc) || (group.mask & same) == 0)
        continue;
      const Group released{.pc = group.pc + 1, .mask = group.mask & same};
      group.mask &= ~same;
      if (group.mask == 0)
        group = released;
      else
        warp.groups.push_back(released);
    }
  }
}

// Operands: result, number, threads (0 for all), predicate.
bool Machine::arrive_at_barrier(Warp& warp, std::size_t index, const Instruction& instruction) {
  const std::uint32_t pc = warp.groups[index].pc;
  if ((instruction.attributes & kAligned) != 0 && warp.groups[index].mask != warp.alive) {
    // Every lane of the warp has to be here.
    std::uint32_t present = warp.groups[index].mask;
    for (const Group& group : warp.groups)
      if (group.wait == Wait::aligned_barrier && group.pc == pc) present |= group.mask;
    if (present != warp.alive) {
      warp.groups[index].wait = Wait::aligned_barrier;
      return false;
    }
    warp.groups.assign(1, Group{.pc = pc, .mask = present});
    index = 0;
  }
  const std::uint32_t mask = warp.groups[index].mask;
  const auto lane = static_cast<std::uint32_t>(std::countr_zero(mask));
  const std::uint32_t number = warp.operand<std::uint32_t>(instruction, 1)[lane];
  const std::uint32_t threads = warp.operand<std::uint32_t>(instruction, 2)[lane];
  if (number >= barriers_.size() || threads % kLanes != 0 || threads > (threads_ + 31) / 32 * 32) {
    report(
        Finding::Kind::divergent_barrier,
        "barrier " + std::to_string(number) + " for " + std::to_string(threads) +
            " threads: numbers are 0 to 15, threads a multiple of 32 and no more than the block's",
        instruction);
    outcome_ = Outcome::trapped;
    return false;
  }
  Barrier& barrier = barriers_[number];
  const auto complain = [&](const std::string& message) {
    report(Finding::Kind::divergent_barrier, "barrier " + std::to_string(number) + ": " + message,
           instruction);
  };
  if (barrier.arrived != 0 && barrier.expected != threads)
    complain("warps expect different numbers of threads");
  if (barrier.arrived != 0 && threads == 0 && barrier.first != &instruction)
    complain("warp " + std::to_string(warp.index) + " meets others that are at " +
             name(*barrier.first));
  if (barrier.arrived == 0) barrier = Barrier{.expected = threads, .first = &instruction};
  barrier.arrived += static_cast<std::uint32_t>(std::popcount(mask));
  std::uint32_t votes = *warp.operand<std::uint32_t>(instruction, 3);
  if ((instruction.attributes & kNegated) != 0) votes = ~votes;
  votes &= mask;
  barrier.all = barrier.all && votes == mask;
  barrier.votes += static_cast<std::uint32_t>(std::popcount(votes));
  Group& group = warp.groups[index];
  ++group.pc;
  if (mode(instruction) != arrive) {
    group.wait = Wait::block_barrier;
    group.barrier = number;
  }
  try_release(number);
  return false;
}

void Machine::try_release(std::uint32_t number) {
  Barrier& barrier = barriers_[number];
  if (barrier.arrived == 0) return;
  const std::uint32_t expected = barrier.expected == 0 ? alive_ : barrier.expected;
  // A block's last warp may be partial, but counts as a whole.
  if (barrier.arrived < std::min(expected, threads_)) return;
  if (barrier.expected == 0 && alive_ != threads_)
    report(Finding::Kind::divergent_barrier,
           "barrier " + std::to_string(number) + ": " + std::to_string(threads_ - alive_) +
               " threads of the block exited without reaching it",
           *barrier.first);
  const Barrier done = barrier;
  barrier = Barrier();
  for (Warp& warp : warps_)
    for (Group& group : warp.groups) {
      if (group.wait != Wait::block_barrier || group.barrier != number) continue;
      group.wait = Wait::none;
      const Instruction& instruction = program_->code[group.pc - 1];
      const std::uint32_t result = instruction.operands[0];
      if (mode(instruction) == reduce_and)
        store_predicate(warp, result, group.mask, done.all ? kAllLanes : 0u);
      else if (mode(instruction) == reduce_or)
        store_predicate(warp, result, group.mask, done.votes != 0 ? kAllLanes : 0u);
      else if (mode(instruction) == reduce_count)
        for_lanes(warp.slot<std::uint32_t>(result), group.mask,
                  [&](std::uint32_t) { return done.votes; });
    }
  // The model knows barriers of whole blocks only: one of some warps counts as such, so that it may
  // miss races between the others, but never invents one.
  if (checks_) model_.block_barrier();
}

std::string Machine::name(const Instruction& instruction) const {
  const auto index = static_cast<std::size_t>(&instruction - program_->code.data());
  return index < program_->names.size() ? program_->names[index]
                                        : "instruction " + std::to_string(index);
}

// Nobody can go on: says who waits, and for whom.
void Machine::report_stuck() {
  for (const Warp& warp : warps_)
    for (const Group& group : warp.groups) {
      const bool at_barrier = group.wait == Wait::block_barrier;
      const Instruction& instruction = program_->code[at_barrier ? group.pc - 1 : group.pc];
      std::string others;
      for (const Group& other : warp.groups)
        if (&other != &group)
          others +=
              "; lanes " + lane_list(other.mask) + " are at " +
              name(program_->code[other.wait == Wait::block_barrier ? other.pc - 1 : other.pc]);
      if (warp.alive != warp.born)
        others += "; lanes " + lane_list(warp.born & ~warp.alive) + " have exited";
      const std::string who =
          "lanes " + lane_list(group.mask) + " of warp " + std::to_string(warp.index);
      if (group.wait == Wait::aligned_barrier)
        report(Finding::Kind::divergent_barrier,
               who + " wait at a barrier that the others of the warp do not reach" + others,
               instruction);
      else if (at_barrier)
        report(Finding::Kind::deadlock,
               who + " wait at barrier " + std::to_string(group.barrier) +
                   ", which other threads do not reach" + others,
               instruction);
      else
        report(Finding::Kind::divergent_collective,
               who + " wait for lanes that do not arrive" + others, instruction);
    }
}

}  // namespace gpu_ladder::ptx
