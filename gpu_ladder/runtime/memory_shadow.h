// What is remembered of every byte of a buffer: part of memory_model.cpp.
//
// Bytes are remembered in cells of 16 at first; a page of them is cut into smaller cells as soon as
// an access needs that. So a vector access of 16 bytes costs what one of 4 costs, and neighbouring
// bytes never share a cell that different accesses touch.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "memory_order.h"

namespace gpu_ladder::detail {

// Reads of the same tick by lanes of one warp.
struct Readers {
  Stamp stamp;
  std::uint32_t mask = 0;
};

// What seldom occurs: more readers than one warp, or several writers of one value.
struct Crowd {
  std::vector<Readers> readers;
  std::vector<Stamp> writers;
};

class Crowds {
 public:
  // 0 is none.
  std::uint32_t make() {
    if (free_.empty()) {
      crowds_.emplace_back();
      return static_cast<std::uint32_t>(crowds_.size());
    }
    const std::uint32_t index = free_.back();
    free_.pop_back();
    return index;
  }
  std::uint32_t copy(std::uint32_t index) {
    if (index == 0) return 0;
    const std::uint32_t made = make();
    (*this)[made] = (*this)[index];
    return made;
  }
  void release(std::uint32_t& index) {
    if (index == 0) return;
    (*this)[index].readers.clear();
    (*this)[index].writers.clear();
    free_.push_back(index);
    index = 0;
  }
  Crowd& operator[](std::uint32_t index) { return crowds_[index - 1]; }

 private:
  std::deque<Crowd> crowds_;
  std::vector<std::uint32_t> free_;
};

struct Cell {
  Stamp write;
  Readers read;
  std::uint32_t crowd = 0;
  std::uint32_t generation = 0;
  bool initialised = false;

  // Stamps of an earlier grid, or of an earlier block's shared memory, mean nothing any more.
  void renew(std::uint32_t now, bool keep_values, Crowds& crowds) {
    if (generation == now) return;
    generation = now;
    write = Stamp();
    read = Readers();
    crowds.release(crowd);
    if (!keep_values) initialised = false;
  }
};

class Page {
 public:
  static constexpr std::uint64_t bytes = 4096;

  // The cells of [offset, offset + count), cut so that none reaches beyond it.
  std::pair<Cell*, Cell*> cells(std::uint64_t offset, std::uint64_t count, Crowds& crowds) {
    const auto needed = static_cast<unsigned>(std::countr_zero(offset | count | 16u));
    if (needed < shift_) cut(needed, crowds);
    Cell* const first = cells_.get() + (offset >> shift_);
    return {first, first + (count >> shift_)};
  }
  std::uint64_t cell_bytes() const { return std::uint64_t{1} << shift_; }
  void release(Crowds& crowds) {
    for (std::uint64_t i = 0; i < bytes >> shift_; ++i) crowds.release(cells_[i].crowd);
  }

 private:
  void cut(unsigned shift, Crowds& crowds) {
    auto cells = std::make_unique<Cell[]>(bytes >> shift);
    const unsigned parts = 1u << (shift_ - shift);
    for (std::uint64_t i = 0; i < bytes >> shift; ++i) {
      const Cell& old = cells_[i / parts];
      cells[i] = old;
      if (i % parts != 0) cells[i].crowd = crowds.copy(old.crowd);
    }
    cells_ = std::move(cells);
    shift_ = shift;
  }

  unsigned shift_ = 4;
  std::unique_ptr<Cell[]> cells_ = std::make_unique<Cell[]>(bytes >> 4);
};

// A set of sectors of 32 bytes, by their number.
class SectorSet {
 public:
  void reset(std::uint64_t sectors) { words_.assign((sectors + 63) / 64, 0); }
  void add(std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t s = first; s <= last; ++s) words_[s / 64] |= std::uint64_t{1} << (s % 64);
  }
  std::uint64_t size() const {
    std::uint64_t count = 0;
    for (const std::uint64_t word : words_) count += static_cast<unsigned>(std::popcount(word));
    return count;
  }

 private:
  std::vector<std::uint64_t> words_;
};

// One buffer, or one piece of shared memory.
struct Region {
  std::string name;
  std::uint64_t begin;
  std::uint64_t end;
  bool shared;
  bool initialised;
  std::vector<std::unique_ptr<Page>> pages = {};
  SectorSet read = {};
  SectorSet written = {};

  // Pages and sectors are counted from an address that is aligned to both.
  std::uint64_t base() const { return begin / Page::bytes * Page::bytes; }
  void prepare() { pages.resize((end - base() + Page::bytes - 1) / Page::bytes); }
  void forget_sectors() {
    read.reset((end - base()) / 32 + 1);
    written.reset((end - base()) / 32 + 1);
  }
  Page& page(std::uint64_t address) {
    auto& page = pages[(address - base()) / Page::bytes];
    if (!page) page = std::make_unique<Page>();
    return *page;
  }
};

// Regions that do not overlap, found by address.
class Regions {
 public:
  void add(Region region, Crowds& crowds) {
    erase_if([&](const Region& old) { return old.begin < region.end && region.begin < old.end; },
             crowds);
    region.prepare();
    region.forget_sectors();
    const auto after = std::upper_bound(
        regions_.begin(), regions_.end(), region.begin,
        [](std::uint64_t begin, const auto& other) { return begin < other->begin; });
    regions_.insert(after, std::make_unique<Region>(std::move(region)));
    last_ = nullptr;
  }
  template <class Condition>
  void erase_if(Condition condition, Crowds& crowds) {
    std::erase_if(regions_, [&](const auto& region) {
      if (!condition(*region)) return false;
      for (const auto& page : region->pages)
        if (page) page->release(crowds);
      return true;
    });
    last_ = nullptr;
  }
  // The one that holds the address, or null.
  Region* find(std::uint64_t address) {
    if (last_ && address >= last_->begin && address < last_->end) return last_;
    Region* const before = nearest(address);
    if (!before || address >= before->end) return nullptr;
    return last_ = before;
  }
  // The last that begins at the address or before it, or null.
  Region* nearest(std::uint64_t address) {
    const auto after =
        std::upper_bound(regions_.begin(), regions_.end(), address,
                         [](std::uint64_t at, const auto& region) { return at < region->begin; });
    return after == regions_.begin() ? nullptr : std::prev(after)->get();
  }
  const std::vector<std::unique_ptr<Region>>& all() const { return regions_; }

 private:
  std::vector<std::unique_ptr<Region>> regions_;
  Region* last_ = nullptr;
};

}  // namespace gpu_ladder::detail
