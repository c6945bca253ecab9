#include "memory_model.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "memory_findings.h"
#include "memory_order.h"
#include "memory_shadow.h"
#include "memory_traffic.h"

namespace gpu_ladder {
namespace {

using detail::Cell;
using detail::Findings;
using detail::Page;
using detail::Readers;
using detail::Region;
using detail::Stamp;
using detail::warp_lanes;

// More readers from finished blocks than these are forgotten.
constexpr std::size_t remembered_blocks = 4;

std::string hexadecimal(std::uint64_t value) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  do {
    out.insert(out.begin(), digits[value % 16]);
    value /= 16;
  } while (value != 0);
  return "0x" + out;
}

const char* verb(const Access& access) {
  if (!access.atomic) return access.write ? "write" : "read";
  return !access.write ? "atomic read" : access.blind ? "atomic write" : "atomic update";
}

}  // namespace

std::string_view name_of(Finding::Kind kind) {
  switch (kind) {
    case Finding::Kind::race:
      return "race";
    case Finding::Kind::out_of_bounds:
      return "out_of_bounds";
    case Finding::Kind::uninitialised:
      return "uninitialised";
    case Finding::Kind::misaligned:
      return "misaligned";
    case Finding::Kind::divergent_barrier:
      return "divergent_barrier";
    case Finding::Kind::divergent_collective:
      return "divergent_collective";
    case Finding::Kind::deadlock:
      return "deadlock";
  }
  return "unknown";
}

struct MemoryModel::State {
  detail::Order order;
  detail::Crowds crowds;
  detail::Regions regions;
  detail::TrafficCounter traffic;
  Findings findings;
  std::function<std::string(std::uint32_t)> site_name;
  std::uint32_t grid_generation = 1;
  std::uint32_t block_generation = 1;
  bool counts_traffic = true;
  // The instruction of a warp that is being checked, and its lanes that have been: what they write
  // is not in memory yet.
  const WarpAccess* warp_access = nullptr;
  std::uint32_t lanes_done = 0;

  bool access(const Access& access, bool within_warp_access);
  void check(const Access& access, const Region& region, std::uint64_t at, Cell& cell);
  void write(const Access& access, const Region& region, std::uint64_t at, Cell& cell,
             const Stamp& now);
  void read(Cell& cell, const Stamp& now);
  bool is_same_value(const Access& access) const;
  void report_race(const Access& access, const Region& region, std::uint64_t at, const Stamp& other,
                   const char* other_verb);
  void report_out_of_bounds(const Access& access);
  void set_initialised(std::uint64_t address, std::uint64_t bytes, bool value);
  std::string by(const Access& access) const;
};

std::string MemoryModel::State::by(const Access& access) const {
  return std::string(verb(access)) + " of " + std::to_string(access.bytes) + " bytes by block " +
         std::to_string(order.block()) + " thread " + std::to_string(access.thread) + " at " +
         Findings::mark(access.site);
}

namespace {
std::string place_in(const Region& region, std::uint64_t address) {
  return region.name + " + " + std::to_string(address - region.begin);
}
}  // namespace

void MemoryModel::State::report_race(const Access& access, const Region& region, std::uint64_t at,
                                     const Stamp& other, const char* other_verb) {
  if (!findings.count(Finding::Kind::race, access.site, other.site)) return;
  findings.describe("race on " + place_in(region, at) + ": " + by(access) +
                    " is not ordered after the " + (other.atomic ? "atomic " : "") + other_verb +
                    " by block " + std::to_string(other.block) + " thread " +
                    std::to_string(other.thread) + " at " + Findings::mark(other.site));
}

void MemoryModel::State::report_out_of_bounds(const Access& access) {
  if (!findings.count(Finding::Kind::out_of_bounds, access.site)) return;
  std::string where = " at address " + hexadecimal(access.address);
  if (Region* const region = regions.nearest(access.address)) {
    if (access.address < region->end)
      where = " reaches beyond the end of ";
    else
      where =
          " begins " + std::to_string(access.address - region->end) + " bytes after the end of ";
    where += region->name + " (" + std::to_string(region->end - region->begin) + " bytes)";
  }
  findings.describe("out of bounds: " + by(access) + where);
}

bool MemoryModel::State::is_same_value(const Access& access) const {
  if (!access.value) return false;
  for (std::uint32_t mask = lanes_done; mask != 0;) {
    const auto lane = static_cast<std::uint32_t>(std::bit_width(mask)) - 1;
    mask &= ~(1u << lane);
    if (warp_access->addresses[lane] == access.address)
      return std::memcmp(warp_access->values[lane], access.value, access.bytes) == 0;
  }
  return std::memcmp(reinterpret_cast<const void*>(access.address), access.value, access.bytes) ==
         0;
}

// The rules for one cell; `at` is its address.
void MemoryModel::State::check(const Access& access, const Region& region, std::uint64_t at,
                               Cell& cell) {
  const bool reads = !access.write || (access.atomic && !access.blind);
  if (reads && !cell.initialised && !region.initialised &&
      findings.count(Finding::Kind::uninitialised, access.site))
    findings.describe("uninitialised: " + by(access) + " from " + place_in(region, at) +
                      ", which nothing wrote");
  const Stamp now = order.now(access.thread, access.site, access.atomic);
  if (access.write) {
    write(access, region, at, cell, now);
    return;
  }
  if (cell.write.exists() && !(cell.write.atomic && access.atomic) &&
      !order.before(cell.write, access.thread)) {
    bool ordered = false;
    if (cell.crowd != 0)
      for (const Stamp& writer : crowds[cell.crowd].writers)
        ordered = ordered || order.before(writer, access.thread);
    if (!ordered) report_race(access, region, at, cell.write, "write");
  }
  read(cell, now);
}

void MemoryModel::State::write(const Access& access, const Region& region, std::uint64_t at,
                               Cell& cell, const Stamp& now) {
  bool again = false;  // the same value once more, by somebody else
  const auto against_write = [&](const Stamp& other) {
    if (!other.exists() || (other.atomic && access.atomic) || order.before(other, access.thread))
      return;
    if (is_same_value(access))
      again = true;
    else
      report_race(access, region, at, other, "write");
  };
  const auto against_reads = [&](const Readers& readers) {
    if (readers.mask == 0 || (readers.stamp.atomic && access.atomic)) return;
    if (order.all_before(readers.stamp, readers.mask, access.thread)) return;
    if (!is_same_value(access)) report_race(access, region, at, readers.stamp, "read");
  };
  against_write(cell.write);
  against_reads(cell.read);
  if (cell.crowd != 0) {
    for (const Stamp& writer : crowds[cell.crowd].writers) against_write(writer);
    for (const Readers& readers : crowds[cell.crowd].readers) against_reads(readers);
  }
  if (again) {
    if (cell.crowd == 0) cell.crowd = crowds.make();
    auto& writers = crowds[cell.crowd].writers;
    std::erase_if(writers, [&](const Stamp& writer) {
      return writer.block == now.block && writer.thread == now.thread;
    });
    writers.push_back(cell.write);
  } else {
    crowds.release(cell.crowd);
    cell.read = Readers();
  }
  cell.write = now;
  cell.initialised = true;
}

void MemoryModel::State::read(Cell& cell, const Stamp& now) {
  const std::uint32_t lane = 1u << (now.thread % warp_lanes);
  // A reader that is before this one, or beside it in the same warp and tick, needs no place of its
  // own: who comes after this one also comes after it.
  const auto joins = [&](Readers& readers) {
    const Stamp& old = readers.stamp;
    if (readers.mask == 0) {
      readers = {now, lane};
      return true;
    }
    if (old.atomic != now.atomic || old.block != now.block) return false;
    if (old.epoch == now.epoch && old.tick == now.tick &&
        old.thread / warp_lanes == now.thread / warp_lanes) {
      readers.mask |= lane;
      readers.stamp.site = now.site;
      return true;
    }
    if (!order.all_before(old, readers.mask, now.thread)) return false;
    readers = {now, lane};
    return true;
  };
  if (joins(cell.read)) return;
  if (cell.crowd == 0) cell.crowd = crowds.make();
  auto& readers = crowds[cell.crowd].readers;
  for (Readers& other : readers)
    if (joins(other)) return;
  if (readers.size() >= remembered_blocks) {
    std::size_t from_others = 0;
    std::erase_if(readers, [&](const Readers& other) {
      return other.stamp.block != now.block && ++from_others >= remembered_blocks;
    });
  }
  readers.push_back({now, lane});
}

bool MemoryModel::State::access(const Access& access, bool within_warp_access) {
  Region* const region = regions.find(access.address);
  if (!region || access.address + access.bytes > region->end ||
      (access.space == Space::shared && !region->shared)) {
    report_out_of_bounds(access);
    return false;
  }
  if (std::has_single_bit(access.bytes) && access.address % access.bytes != 0 &&
      findings.count(Finding::Kind::misaligned, access.site))
    findings.describe("misaligned: " + by(access) + " to " + place_in(*region, access.address) +
                      ", address " + hexadecimal(access.address));
  if (access.atomic)
    order.atomic(access.thread, access.address, !access.write || !access.blind, access.write);
  const std::uint32_t generation = region->shared ? block_generation : grid_generation;
  const std::uint64_t end = access.address + access.bytes;
  for (std::uint64_t at = access.address; at < end;) {
    const std::uint64_t offset = (at - region->base()) % Page::bytes;
    const std::uint64_t count = std::min(end - at, Page::bytes - offset);
    Page& page = region->page(at);
    const auto [first, last] = page.cells(offset, count, crowds);
    std::uint64_t cell_address = at;
    for (Cell* cell = first; cell != last; ++cell, cell_address += page.cell_bytes()) {
      cell->renew(generation, !region->shared, crowds);
      check(access, *region, cell_address, *cell);
    }
    at += count;
  }
  if (!counts_traffic) return true;
  if (!region->shared) {
    const std::uint64_t first = (access.address - region->base()) / 32;
    const std::uint64_t last = (end - 1 - region->base()) / 32;
    if (!access.write || (access.atomic && !access.blind)) region->read.add(first, last);
    if (access.write) region->written.add(first, last);
  }
  if (within_warp_access) return true;
  const Space space = region->shared ? Space::shared : Space::global;
  if (traffic.in_request())
    traffic.add_to_request(access, space);
  else
    traffic.add(access, space);
  return true;
}

void MemoryModel::State::set_initialised(std::uint64_t address, std::uint64_t bytes, bool value) {
  for (std::uint64_t at = address, end = address + bytes; at < end;) {
    Region* const region = regions.find(at);
    if (!region) return;
    const std::uint64_t offset = (at - region->base()) % Page::bytes;
    const std::uint64_t count = std::min({end - at, region->end - at, Page::bytes - offset});
    const auto [first, last] = region->page(at).cells(offset, count, crowds);
    for (Cell* cell = first; cell != last; ++cell) cell->initialised = value;
    at += count;
  }
}

MemoryModel::MemoryModel() : state_(std::make_unique<State>()) {}
MemoryModel::~MemoryModel() = default;

void MemoryModel::add_buffer(std::string name, std::uint64_t address, std::uint64_t bytes,
                             bool initialised) {
  if (bytes == 0) return;
  state_->regions.add({std::move(name), address, address + bytes, false, initialised},
                      state_->crowds);
}

void MemoryModel::clear_buffers() {
  state_->regions.erase_if([](const Region& region) { return !region.shared; }, state_->crowds);
}

void MemoryModel::mark_initialised(std::uint64_t address, std::uint64_t bytes) {
  state_->set_initialised(address, bytes, true);
}

void MemoryModel::add_shared(std::string name, std::uint64_t address, std::uint64_t bytes) {
  if (bytes == 0) return;
  state_->regions.add({std::move(name), address, address + bytes, true, false}, state_->crowds);
}

void MemoryModel::clear_shared() {
  state_->regions.erase_if([](const Region& region) { return region.shared; }, state_->crowds);
}

void MemoryModel::begin_grid(std::array<unsigned, 3>, std::array<unsigned, 3> block,
                             std::uint64_t shared_base, std::uint64_t shared_bytes) {
  const std::uint32_t threads = block[0] * block[1] * block[2];
  ++state_->grid_generation;
  state_->order.begin_grid(threads);
  state_->traffic.begin_grid(threads);
  for (const auto& region : state_->regions.all()) region->forget_sectors();
  if (shared_bytes > 0) add_shared("shared memory", shared_base, shared_bytes);
}

void MemoryModel::begin_block(std::uint32_t block) {
  ++state_->block_generation;
  state_->order.begin_block(block);
}

void MemoryModel::end_block() { state_->traffic.end_block(); }

void MemoryModel::end_grid() {
  state_->regions.erase_if(
      [](const Region& region) { return region.shared && region.name == "shared memory"; },
      state_->crowds);
}

bool MemoryModel::access(const Access& access) { return state_->access(access, false); }

bool MemoryModel::begin_write(const Access& access) {
  const bool counts = std::exchange(state_->counts_traffic, false);
  const bool allowed = state_->access(access, false);
  state_->counts_traffic = counts;
  if (allowed) state_->set_initialised(access.address, access.bytes, false);
  return allowed;
}

std::uint32_t MemoryModel::access_warp(const WarpAccess& warp) {
  Access access = {0, warp.space, warp.write, warp.atomic, warp.bytes,
                   0, warp.site,  nullptr,    warp.blind};
  std::uint32_t allowed = 0;
  detail::Request request;
  state_->warp_access = &warp;
  for (std::uint32_t mask = warp.mask; mask != 0; mask &= mask - 1) {
    const auto lane = static_cast<std::uint32_t>(std::countr_zero(mask));
    access.thread = warp.warp * warp_lanes + lane;
    access.address = warp.addresses[lane];
    access.value = warp.values ? warp.values[lane] : nullptr;
    if (!state_->access(access, true)) continue;
    allowed |= 1u << lane;
    if (warp.values) state_->lanes_done = allowed;
    request.add(lane, access.address);
  }
  state_->lanes_done = 0;
  if (!state_->counts_traffic || allowed == 0) return allowed;
  const Region* const region = state_->regions.find(access.address);
  request.space = region && region->shared ? Space::shared : warp.space;
  request.write = warp.write;
  request.atomic = warp.atomic;
  request.bytes = warp.bytes;
  state_->traffic.count(warp.site, request);
  return allowed;
}

void MemoryModel::begin_request() { state_->traffic.begin_request(); }
void MemoryModel::end_request() { state_->traffic.end_request(); }

void MemoryModel::block_barrier() { state_->order.block_barrier(); }
void MemoryModel::warp_sync(std::uint32_t warp, std::uint32_t mask) {
  state_->order.warp_sync(warp, mask);
}
void MemoryModel::fence(std::uint32_t thread) { state_->order.fence(thread); }

void MemoryModel::report(Finding::Kind kind, const std::string& message, std::uint32_t site) {
  if (state_->findings.count(kind, site)) state_->findings.describe(message);
}
const std::vector<Finding>& MemoryModel::findings() const {
  return state_->findings.all(state_->site_name);
}
void MemoryModel::clear_findings() { state_->findings.clear(); }

const std::map<std::uint32_t, Traffic>& MemoryModel::traffic() const {
  return state_->traffic.traffic();
}
std::vector<BufferTraffic> MemoryModel::buffer_traffic() const {
  std::vector<BufferTraffic> out;
  for (const auto& region : state_->regions.all())
    if (!region->shared)
      out.push_back(
          {region->name, region->end - region->begin, region->read.size(), region->written.size()});
  return out;
}
void MemoryModel::clear_traffic() { state_->traffic.clear(); }
void MemoryModel::count_traffic(bool enabled) { state_->counts_traffic = enabled; }
void MemoryModel::name_sites(std::function<std::string(std::uint32_t)> name) {
  state_->site_name = std::move(name);
}

}  // namespace gpu_ladder
