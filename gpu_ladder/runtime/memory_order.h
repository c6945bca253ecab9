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
    const OfBlock& known = found->second;
    if (stamp.epoch < known.epochs) return true;
    return stamp.thread < known.ticks.size() && stamp.tick <= known.ticks[stamp.thread];
  }
  // All of the block's epochs before `epochs`.
  void add(std::uint32_t block, std::uint32_t epochs) {
    auto& known = blocks_[block].epochs;
    known = std::max(known, epochs);
  }
  // Of the threads from `first` on, what they did up to these ticks.
  template <class Ticks>
  void add(std::uint32_t block, std::uint32_t first, const Ticks& ticks) {
    auto& known = blocks_[block].ticks;
    std::size_t count = ticks.size();
    while (count > 0 && ticks[count - 1] == 0) --count;
    if (known.size() < first + count) known.resize(first + count, 0);
    for (std::size_t i = 0; i < count; ++i) known[first + i] = std::max(known[first + i], ticks[i]);
  }
  void add(const Published& other) {
    for (const auto& [block, known] : other.blocks_) {
      add(block, known.epochs);
      add(block, 0, known.ticks);
    }
  }

 private:
  struct OfBlock {
    std::uint32_t epochs = 0;
    std::vector<std::uint32_t> ticks;  // by thread
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
    read_.clear();
    fence_ = Fence();
    for (auto& thread : threads_) {
      thread.lanes.fill(0);
      if (!any_fences_) continue;
      thread.fence = Fence();
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
    for (std::uint32_t t = 0; t < threads_.size(); ++t) {
      knowledge_.add(threads_[t].knowledge);
      read_.add(threads_[t].read);
      fence_.add(threads_[t].fence);
    }
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
    Knowledge knowledge;
    Knowledge read;
    Fence fence;
    for_lanes(first, mask, [&](Thread& thread) {
      knowledge.add(thread.knowledge);
      read.add(thread.read);
      fence.add(thread.fence);
    });
    for_lanes(first, mask, [&](Thread& thread) {
      thread.knowledge = knowledge;
      thread.read = read;
      thread.fence = fence;
    });
  }
  // Publishes what happened so far with atomic writes that follow, and takes over what atomics have
  // read before.
  void fence(std::uint32_t index) {
    Thread& thread = threads_[index];
    any_fences_ = true;
    thread.knowledge.add(thread.read);
    thread.knowledge.add(read_);
    Fence fence;
    fence.epoch = epoch_;
    fence.first = index / warp_lanes * warp_lanes;
    fence.ticks.assign(thread.lanes.begin(), thread.lanes.end());
    fence.knowledge = thread.knowledge;
    fence.knowledge.add(knowledge_);
    thread.fence = std::move(fence);
    ++thread.lanes[index % warp_lanes];
  }
  void atomic(std::uint32_t index, std::uint64_t address, bool reads, bool writes) {
    Thread& thread = threads_[index];
    if (writes && !reads) atomics_.erase(address);
    if (writes && (thread.fence.epoch > 0 || fence_.epoch > 0)) {
      auto& published = atomics_[address];
      if (!published)
        published = std::make_shared<Published>();
      else if (published.use_count() > 1)
        published = std::make_shared<Published>(*published);
      for (const Fence* fence : {&thread.fence, &fence_}) {
        if (fence->epoch == 0) continue;
        published->add(block_, fence->epoch);
        published->add(block_, fence->first, fence->ticks);
        fence->knowledge.publish(*published, address);
      }
    }
    if (!reads) return;
    const auto found = atomics_.find(address);
    if (found == atomics_.end()) return;
    any_fences_ = true;
    thread.read.add(address, found->second);
  }

 private:
  // What one fence, or several of threads that have met since, made ready to be published.
  struct Fence {
    std::uint32_t epoch = 0;           // all of the block before it; 0: there was no fence
    std::uint32_t first = 0;           // of the threads that `ticks` are of
    std::vector<std::uint32_t> ticks;  // up to which tick
    Knowledge knowledge;

    void add(const Fence& other) {
      if (other.epoch == 0) return;
      if (epoch == 0) {
        *this = other;
        return;
      }
      epoch = std::max(epoch, other.epoch);
      if (other.first < first) {
        ticks.insert(ticks.begin(), first - other.first, 0);
        first = other.first;
      }
      const std::size_t shift = other.first - first;
      if (ticks.size() < shift + other.ticks.size()) ticks.resize(shift + other.ticks.size(), 0);
      for (std::size_t i = 0; i < other.ticks.size(); ++i)
        ticks[shift + i] = std::max(ticks[shift + i], other.ticks[i]);
      knowledge.add(other.knowledge);
    }
  };
  struct Thread {
    // Up to which tick this thread is behind the lanes of its warp; its own entry is its tick.
    std::array<std::uint32_t, warp_lanes> lanes = {};
    Fence fence;
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
  std::uint32_t block_ = no_block;
  std::uint32_t epoch_ = 0;
  bool any_fences_ = false;  // in this block: without any, much need not be looked at
  std::vector<Thread> threads_;
  // Of all threads, as of the last barrier.
  Knowledge knowledge_;
  Knowledge read_;
  Fence fence_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Published>> atomics_;
};

}  // namespace gpu_ladder::detail
