#include "machine.h"

#include <algorithm>
#include <cstring>

#include "gpu_ladder/api.h"
#include "sites.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace gpu_ladder {
namespace {

// Atomics of one thread without a barrier in between, after which others have their turn: it may be
// waiting for one of them.
constexpr unsigned atomics_per_turn = 1000;
constexpr unsigned idle_turns = 20000;

std::string to_string(const Place& place) {
  return std::string(place.operation) + " at " + place.file + ":" + std::to_string(place.line);
}

bool is_same(const Place& a, const Place& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

}  // namespace

Machine& machine = *new Machine;

Machine::Machine() { model.name_sites(&site_name); }

std::string Machine::block_name() const { return "block " + std::to_string(linear_block()); }
std::string Machine::thread_name(unsigned thread) const {
  return block_name() + " thread " + std::to_string(thread);
}

void Machine::report(Finding::Kind kind, const Place& place, const std::string& what) {
  model.report(kind, to_string(place) + ": " + what, site_of_line(place.file, place.line));
}

int Machine::run(const Launch& launch) {
  launch_ = &launch;
  block_size = launch.block;
  grid_size = launch.grid;
  size_ = block_size.x * block_size.y * block_size.z;
  error_ = 0;
  random_.seed(seed);
  while (threads_.size() < size_) threads_.emplace_back();
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(shared_, most_shared_bytes);
  ASAN_POISON_MEMORY_REGION(shared_ + launch.shared_bytes, most_shared_bytes - launch.shared_bytes);
#endif
  if (accesses_are_checked) {
    register_shared_variables(model);
    model.begin_grid({grid_size.x, grid_size.y, grid_size.z},
                     {block_size.x, block_size.y, block_size.z},
                     reinterpret_cast<std::uintptr_t>(shared_), launch.shared_bytes);
  }
  const std::uint64_t blocks = std::uint64_t{grid_size.x} * grid_size.y * grid_size.z;
  const BlockOrder order(schedule, blocks, random_);
  for (std::uint64_t i = 0; i < blocks && error_ == 0; ++i) run_block(order[i]);
  if (accesses_are_checked) model.end_grid();
  return error_;
}

void Machine::run_block(std::uint32_t index) {
  block = {index % grid_size.x, index / grid_size.x % grid_size.y,
           index / grid_size.x / grid_size.y};
  if (accesses_are_checked) model.begin_block(index);
  // Not a number in any type: what reads it without having written it shows in the results.
  std::memset(shared_, 0xff, launch_->shared_bytes);
  alive_ = size_;
  turns_ = 0;
  barrier_ = Barrier();
  ready_.clear();
  for (unsigned t = 0; t < size_; ++t) {
    Thread& thread = threads_[t];
    thread.fiber.start(&Machine::thread_entry, t);
    thread.index = t;
    thread.stack_begin = thread.fiber.stack_begin();
    thread.stack_end = thread.fiber.stack_end();
    thread.place = {t % block_size.x, t / block_size.x % block_size.y,
                    t / block_size.x / block_size.y};
    thread.atomics = 0;
    thread.at_barrier = false;
    thread.copies.assign(1, {});
  }
  for (unsigned first = 0; first < size_; first += warp_threads) {
    Warp& warp = warps_[first / warp_threads];
    const unsigned lanes = std::min(warp_threads, size_ - first);
    warp.alive = lanes == warp_threads ? ~0u : (1u << lanes) - 1;
    warp.waiting = 0;
    ready_.add_lanes(first / warp_threads, warp.alive);
  }
  current = &threads_[ready_.take(schedule, random_)];
  host_.switch_to(current->fiber);
  current = nullptr;
  if (accesses_are_checked) model.end_block();
}

void Machine::thread_entry() {
  Machine& self = machine;
  self.launch_->call(self.launch_->function, self.launch_->args);
  self.finish_thread();
}

void Machine::finish_thread() {
  const unsigned index = current->index;
  Warp& warp = warps_[index / warp_threads];
  warp.alive &= ~(1u << (index % warp_threads));
  --alive_;
  turns_ = 0;
  release_what_waits(index / warp_threads);
  if (barrier_.arrived > 0 && barrier_.arrived == alive_) release_barrier();
  go_on(true);
}

// Switches to a thread that can go on, or back to the host where the block is done.
void Machine::go_on(bool last) {
  const unsigned next = ready_.take(schedule, random_);
  Fiber& own = current->fiber;
  if (next != no_thread) {
    Thread& thread = threads_[next];
    if (&thread == current) return;
    current = &thread;
    own.switch_to(thread.fiber, last);
    return;
  }
  if (alive_ > 0) {
    report_deadlock();
    error_ = cudaErrorLaunchTimeout;
  }
  own.switch_to(host_, true);
}

void Machine::give_up(int error) {
  error_ = error;
  current->fiber.switch_to(host_, true);
}

int Machine::barrier(const Place& place, bool predicate) {
  if (barrier_.arrived == 0) {
    barrier_.first = place;
    barrier_.first_thread = current->index;
  } else if (!barrier_.diverged && !is_same(place, barrier_.first)) {
    barrier_.diverged = true;
    report(Finding::Kind::divergent_barrier, place,
           thread_name(current->index) + " waits here while thread " +
               std::to_string(barrier_.first_thread) + " waits in " + to_string(barrier_.first));
  }
  ++barrier_.arrived;
  barrier_.predicates += predicate ? 1 : 0;
  current->at_barrier = true;
  current->barrier = place;
  current->atomics = 0;
  if (barrier_.arrived == alive_) release_barrier();
  go_on();
  return barrier_.result;
}

void Machine::release_barrier() {
  if (alive_ < size_)
    report(Finding::Kind::divergent_barrier, barrier_.first,
           std::to_string(size_ - alive_) + " of the " + std::to_string(size_) + " threads of " +
               block_name() + " returned before it");
  const int result = static_cast<int>(barrier_.predicates);
  barrier_ = Barrier();
  barrier_.result = result;
  turns_ = 0;
  if (accesses_are_checked) model.block_barrier();
  for (unsigned t = 0; t < size_; ++t) threads_[t].at_barrier = false;
  for (unsigned warp = 0; warp * warp_threads < size_; ++warp)
    if (warps_[warp].alive != 0) ready_.add_lanes(warp, warps_[warp].alive);
}

std::uint64_t Machine::collective(const Place& place, Collective what, unsigned mask,
                                  std::uint64_t value, unsigned source) {
  const unsigned index = current->index / warp_threads;
  const unsigned lane = current->index % warp_threads;
  Warp& warp = warps_[index];
  if ((mask >> lane & 1u) == 0) {
    report(Finding::Kind::divergent_collective, place,
           thread_name(current->index) + " calls it, and is not in its mask");
    mask |= 1u << lane;
  }
  warp.lanes[lane] = {place, what, mask, source, value, 0};
  warp.waiting |= 1u << lane;
  current->atomics = 0;
  if (warp.is_complete(lane)) release_collective(index, lane);
  if ((warp.waiting >> lane & 1u) != 0 || schedule == Schedule::random) {
    if ((warp.waiting >> lane & 1u) == 0) ready_.add(current->index);
    go_on();
  }
  return warp.lanes[lane].result;
}

// All that one lane waits for are there; all but it become ready where it is running itself.
void Machine::release_collective(unsigned index, unsigned lane) {
  Warp& warp = warps_[index];
  const std::uint32_t present = warp.lanes[lane].mask & warp.alive;
  check_collective(index, lane, present);
  warp.exchange(warp.lanes[lane].what, present);
  warp.waiting &= ~present;
  turns_ = 0;
  if (accesses_are_checked) model.warp_sync(index, present);
  std::uint32_t others = present;
  if (current->index / warp_threads == index) others &= ~(1u << (current->index % warp_threads));
  if (others != 0) ready_.add_lanes(index, others);
}

// A lane of the warp has returned: others may have waited for it alone.
void Machine::release_what_waits(unsigned index) {
  Warp& warp = warps_[index];
  for (std::uint32_t rest = warp.waiting; rest != 0;) {
    const auto lane = static_cast<unsigned>(std::countr_zero(rest));
    rest &= rest - 1;
    if (!warp.is_complete(lane)) continue;
    release_collective(index, lane);
    rest &= warp.waiting;
  }
}

void Machine::check_collective(unsigned index, unsigned first_lane, std::uint32_t present) {
  const Warp& warp = warps_[index];
  const Warp::Lane& first = warp.lanes[first_lane];
  const unsigned first_thread = index * warp_threads;
  const auto name = [&](unsigned lane) { return thread_name(first_thread + lane); };
  constexpr auto kind = Finding::Kind::divergent_collective;
  if (first.mask != present && first.what != Collective::synchronise) {
    const auto absent = static_cast<unsigned>(std::countr_zero(first.mask & ~present));
    report(kind, first.place,
           "its mask names lane " + std::to_string(absent) + " of warp " + std::to_string(index) +
               " of " + block_name() + ", which " +
               (first_thread + absent < size_ ? "has returned" : "does not exist"));
  }
  for (std::uint32_t rest = present; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<unsigned>(std::countr_zero(rest));
    const Warp::Lane& other = warp.lanes[lane];
    if (other.what != first.what || !is_same(other.place, first.place))
      report(kind, other.place,
             name(lane) + " waits here while " + name(first_lane) + " waits in " +
                 to_string(first.place));
    else if (other.what == Collective::shuffle && (present >> other.source & 1u) == 0)
      report(kind, other.place,
             name(lane) + " reads lane " + std::to_string(other.source) +
                 ", which takes no part: the value is undefined");
  }
}

void Machine::begin_copy(const Copy& copy) {
  const auto to = reinterpret_cast<std::uintptr_t>(copy.to);
  const auto from = reinterpret_cast<std::uintptr_t>(copy.from);
  const bool possible =
      (copy.bytes == 4 || copy.bytes == 8 || copy.bytes == 16) && copy.zeros <= copy.bytes;
  if (!possible || (to | from) % copy.bytes != 0) {
    model.report(Finding::Kind::misaligned,
                 "asynchronous copy of " + std::to_string(copy.bytes) + " bytes, " +
                     std::to_string(copy.zeros) + " of them zeros, by " +
                     thread_name(current->index) +
                     ": accepted are 4, 8 or 16 from and to addresses aligned to as many",
                 site_of_address(copy.return_address));
    give_up(cudaErrorMisalignedAddress);
  }
  const auto wanted = static_cast<std::uint32_t>(copy.bytes - copy.zeros);
  const bool allowed =
      !accesses_are_checked ||
      ((wanted == 0 || model.access({current->index, Space::global, false, false, wanted, from,
                                     site_of_address(copy.return_address)})) &&
       model.begin_write(write_of(copy)));
  if (!allowed) give_up(cudaErrorIllegalAddress);
  current->copies.back().push_back(copy);
}

// The latest that a device may do what was asked for. Where two copies are on their way to one
// place, nobody knows what is there before both have come.
void Machine::wait_for_copies(std::size_t left) {
  auto& groups = current->copies;
  const auto is_awaited = [&](const Copy& done) {
    for (std::size_t group = 1; group < groups.size(); ++group)
      for (const Copy& later : groups[group])
        if (static_cast<char*>(later.to) < static_cast<char*>(done.to) + done.bytes &&
            static_cast<char*>(done.to) < static_cast<char*>(later.to) + later.bytes)
          return true;
    return false;
  };
  for (; groups.size() > left + 1; groups.erase(groups.begin())) {
    for (const Copy& copy : groups.front()) {
      if (accesses_are_checked) model.access(write_of(copy));
      const std::size_t wanted = copy.bytes - copy.zeros;
      std::memcpy(copy.to, copy.from, wanted);
      std::memset(static_cast<char*>(copy.to) + wanted, 0, copy.zeros);
      if (!is_awaited(copy)) continue;
      if (accesses_are_checked) model.begin_write(write_of(copy));
      std::memset(copy.to, 0xff, copy.bytes);
    }
  }
}

Access Machine::write_of(const Copy& copy) const {
  // A place of its own, since a site has one direction.
  return {current->index,
          Space::shared,
          true,
          false,
          static_cast<std::uint32_t>(copy.bytes),
          reinterpret_cast<std::uintptr_t>(copy.to),
          site_of_address(static_cast<const char*>(copy.return_address) - 1)};
}

void Machine::count_atomic(const void* return_address) {
  if (++current->atomics < atomics_per_turn) return;
  current->atomics = 0;
  if (++turns_ > idle_turns) {
    model.report(Finding::Kind::deadlock,
                 thread_name(current->index) +
                     " keeps calling atomic functions, and no other thread can go on",
                 site_of_address(return_address));
    give_up(cudaErrorLaunchTimeout);
  }
  const unsigned next = ready_.take_after(current->index);
  if (next == no_thread) return;
  ready_.add(current->index);
  Fiber& own = current->fiber;
  current = &threads_[next];
  own.switch_to(current->fiber);
}

// Every thread that is left waits, so one at least waits in a collective.
void Machine::report_deadlock() {
  for (unsigned index = 0; index * warp_threads < size_; ++index) {
    const Warp& warp = warps_[index];
    if (warp.waiting == 0) continue;
    const auto lane = static_cast<unsigned>(std::countr_zero(warp.waiting));
    const Warp::Lane& waiting = warp.lanes[lane];
    std::string message = thread_name(index * warp_threads + lane) + " waits for";
    for (std::uint32_t rest = waiting.mask & warp.alive; rest != 0; rest &= rest - 1) {
      const auto other = static_cast<unsigned>(std::countr_zero(rest));
      const Thread& thread = threads_[index * warp_threads + other];
      const bool waits = (warp.waiting >> other & 1u) != 0;
      if (waits && warp.lanes[other].mask == waiting.mask) continue;
      message += " lane " + std::to_string(other) + ", which is in " +
                 to_string(waits ? warp.lanes[other].place : thread.barrier);
      break;
    }
    report(Finding::Kind::deadlock, waiting.place, message);
  }
}

}  // namespace gpu_ladder
