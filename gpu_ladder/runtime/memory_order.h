// Which accesses of a grid are ordered: part of memory_model.cpp.
//
// Time is counted three ways. A block counts its barriers: whatever happened in an earlier epoch is
// before everything in a later one. A thread counts its own ticks, one more after each
// synchronisation, and knows of every lane of its warp up to which tick it is ahead of it. And what
// a fence published through an atomic is knowledge that the thread which reads the atomic, and
// fences in turn, has from then on.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace gpu_ladder::detail {

inline constexpr std::uint32_t warp_lanes = 32;
inline constexpr std::uint32_t no_block = ~0u;

// When an access happened, and by whom.
struct Stamp {
  std::uint32_t block = no_block;
  std::uint32_t epoch = 0;
  std::uint32_t tick = 0;
  std::uint32_t site = 0;
  std::uint16_t thread = 0;
  bool atomic = false;

  bool exists() const { return block != no_block; }
};

// What has been published through one atomic variable, for each block that took part.
class Published {
 public:
  bool covers(const Stamp& stamp) const {
    const auto found = blocks_.find(stamp.block);
    if (found == blocks_.end()) return false;
    if (stamp.epoch < found->second.epochs) return true;
    for (const auto& [thread, tick] : found->second.threads)
      if (thread == stamp.thread && stamp.tick <= tick) return true;
    return false;
  }
  // All of the block's epochs before `epochs`.
  void add(std::uint32_t block, std::uint32_t epochs) {
    auto& known = blocks_[block];
    known.epochs = std::max(known.epochs, epochs);
  }
  void add(std::uint32_t block, std::uint16_t thread, std::uint32_t tick) {
    auto& threads = blocks_[block].threads;
    for (auto& entry : threads)
      if (entry.first == thread) {
        entry.second = std::max(entry.second, tick);
        return;
      }
    threads.emplace_back(thread, tick);
  }
  void add(const Published& other) {
    for (const auto& [block, known] : other.blocks_) {
      add(block, known.epochs);
      for (const auto& [thread, tick] : known.threads) add(block, thread, tick);
    }
  }

 private:
  struct OfBlock {
    std::uint32_t epochs = 0;
    std::vector<std::pair<std::uint16_t, std::uint32_t>> threads;
  };
  std::unordered_map<std::uint32_t, OfBlock> blocks_;
};

// What a thread has read from atomics. An atomic variable only ever publishes more, so of each one
// the newest reading holds everything.
class Knowledge {
 public:
  using Reading = std::shared_ptr<const Published>;

  bool empty() const { return readings_.empty(); }
  bool covers(const Stamp& stamp) const {
    for (const auto& [address, reading] : readings_)
      if (reading->covers(stamp)) return true;
    return false;
  }
  void add(std::uint64_t address, const Reading& reading) {
    for (auto& [known, old] : readings_)
      if (known == address) {
        old = reading;
        return;
      }
    readings_.emplace_back(address, reading);
  }
  // Another thread's readings may be older or newer than these: both are kept.
  void add(const Knowledge& other) {
    for (const auto& entry : other.readings_)
      if (std::find(readings_.begin(), readings_.end(), entry) == readings_.end())
        readings_.push_back(entry);
  }
  void publish(Published& into, std::uint64_t address) const {
    for (const auto& [known, reading] : readings_)
      if (known != address) into.add(*reading);
  }
  void clear() { readings_.clear(); }

 private:
  std::vector<std::pair<std::uint64_t, Reading>> readings_;
};

class Order {
 public:
  void begin_grid(std::uint32_t threads) {
    threads_.resize(threads);
    atomics_.clear();
  }
  void begin_block(std::uint32_t block) {
    block_ = block;
    epoch_ = 1;
    knowledge_.clear();
    for (auto& thread : threads_) {
      thread.lanes.fill(0);
      if (!any_fences_) continue;
      thread.fence.reset();
      thread.read.clear();
      thread.knowledge.clear();
    }
    any_fences_ = false;
    for (std::uint32_t t = 0; t < threads_.size(); ++t) threads_[t].lanes[t % warp_lanes] = 1;
  }
  std::uint32_t block() const { return block_; }

  Stamp now(std::uint32_t thread, std::uint32_t site, bool atomic) const {
    return {block_, epoch_, tick(thread), site, static_cast<std::uint16_t>(thread), atomic};
  }
  bool before(const Stamp& stamp, std::uint32_t thread) const {
    if (stamp.block == block_) {
      if (stamp.thread == thread || stamp.epoch < epoch_) return true;
      if (stamp.thread / warp_lanes == thread / warp_lanes &&
          threads_[thread].lanes[stamp.thread % warp_lanes] >= stamp.tick)
        return true;
    }
    if (!any_fences_) return false;
    return knowledge_.covers(stamp) || threads_[thread].knowledge.covers(stamp);
  }
  // Whether the accesses of all lanes in `mask` of the stamp's warp are before those of `thread`.
  bool all_before(const Stamp& stamp, std::uint32_t mask, std::uint32_t thread) const {
    if (stamp.block == block_ && stamp.epoch < epoch_) return true;
    Stamp lane = stamp;
    for (; mask != 0; mask &= mask - 1) {
      lane.thread = static_cast<std::uint16_t>(stamp.thread / warp_lanes * warp_lanes +
                                               static_cast<std::uint32_t>(std::countr_zero(mask)));
      if (!before(lane, thread)) return false;
    }
    return true;
  }

  void block_barrier() {
    ++epoch_;
    if (!any_fences_) return;
    for (const auto& thread : threads_) knowledge_.add(thread.knowledge);
  }
  void warp_sync(std::uint32_t warp, std::uint32_t mask) {
    const std::uint32_t first = warp * warp_lanes;
    std::array<std::uint32_t, warp_lanes> latest = {};
    for_lanes(first, mask, [&](Thread& thread) {
      for (std::uint32_t k = 0; k < warp_lanes; ++k)
        latest[k] = std::max(latest[k], thread.lanes[k]);
    });
    for_lanes(first, mask, [&](Thread& thread) { thread.lanes = latest; });
    for (std::uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      const auto lane = static_cast<std::uint32_t>(std::countr_zero(rest));
      if (first + lane < threads_.size()) ++threads_[first + lane].lanes[lane];
    }
    if (!any_fences_) return;
    Knowledge all;
    for_lanes(first, mask, [&](Thread& thread) { all.add(thread.knowledge); });
    if (!all.empty()) for_lanes(first, mask, [&](Thread& thread) { thread.knowledge = all; });
  }
  // Publishes what happened so far with the thread's next atomic writes, and takes over what its
  // atomics have read.
  void fence(std::uint32_t index) {
    Thread& thread = threads_[index];
    any_fences_ = true;
    thread.knowledge.add(thread.read);
    auto fence = std::make_unique<Fence>();
    fence->epoch = epoch_;
    fence->lanes = thread.lanes;
    fence->knowledge = thread.knowledge;
    fence->knowledge.add(knowledge_);
    thread.fence = std::move(fence);
    ++thread.lanes[index % warp_lanes];
  }
  void atomic(std::uint32_t index, std::uint64_t address, bool reads, bool writes) {
    Thread& thread = threads_[index];
    if (writes && !reads) atomics_.erase(address);
    if (writes && thread.fence) {
      auto& published = atomics_[address];
      if (!published)
        published = std::make_shared<Published>();
      else if (published.use_count() > 1)
        published = std::make_shared<Published>(*published);
      publish(*thread.fence, index, address, *published);
    }
    if (!reads) return;
    const auto found = atomics_.find(address);
    if (found == atomics_.end()) return;
    any_fences_ = true;
    thread.read.add(address, found->second);
  }

 private:
  struct Fence {
    std::uint32_t epoch;
    std::array<std::uint32_t, warp_lanes> lanes;
    Knowledge knowledge;
  };
  struct Thread {
    // Up to which tick this thread is behind the lanes of its warp; its own entry is its tick.
    std::array<std::uint32_t, warp_lanes> lanes = {};
    std::unique_ptr<Fence> fence;
    Knowledge read;       // by atomics, and not yet behind a fence
    Knowledge knowledge;  // behind one
  };

  std::uint32_t tick(std::uint32_t thread) const {
    return threads_[thread].lanes[thread % warp_lanes];
  }
  template <class Function>
  void for_lanes(std::uint32_t first, std::uint32_t mask, Function function) {
    for (; mask != 0; mask &= mask - 1) {
      const auto thread = first + static_cast<std::uint32_t>(std::countr_zero(mask));
      if (thread < threads_.size()) function(threads_[thread]);
    }
  }
  void publish(const Fence& fence, std::uint32_t index, std::uint64_t address,
               Published& into) const {
    into.add(block_, fence.epoch);
    for (std::uint32_t lane = 0; lane < warp_lanes; ++lane)
      if (fence.lanes[lane] > 0)
        into.add(block_, static_cast<std::uint16_t>(index / warp_lanes * warp_lanes + lane),
                 fence.lanes[lane]);
    fence.knowledge.publish(into, address);
  }

  std::uint32_t block_ = no_block;
  std::uint32_t epoch_ = 0;
  bool any_fences_ = false;  // in this block: without any, much need not be looked at
  std::vector<Thread> threads_;
  Knowledge knowledge_;  // of all threads, since the last barrier
  std::unordered_map<std::uint64_t, std::shared_ptr<Published>> atomics_;
};

}  // namespace gpu_ladder::detail
