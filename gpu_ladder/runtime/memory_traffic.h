// What the requests of warps move: part of memory_model.cpp.
//
// Global memory moves in sectors of 32 bytes. Shared memory has 32 banks of 4 bytes: a request
// takes as many passes as the most wanted bank has different words, in groups of lanes that
// together ask for 128 bytes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "memory_model.h"
#include "memory_order.h"

namespace gpu_ladder::detail {

struct Request {
  Space space = Space::global;
  bool write = false;
  bool atomic = false;
  std::uint32_t bytes = 0;  // of a lane
  std::uint32_t mask = 0;
  std::array<std::uint64_t, warp_lanes> addresses = {};

  void add(std::uint32_t lane, std::uint64_t address) {
    mask |= 1u << lane;
    addresses[lane] = address;
  }
};

class TrafficCounter {
 public:
  void begin_grid(std::uint32_t threads) { threads_ = threads; }

  // The thread's next access at this site: its request is that of the other lanes' accesses of the
  // same number.
  void add(const Access& access, Space space) {
    if (access.site >= sites_.size()) sites_.resize(access.site + 1);
    Site& site = sites_[access.site];
    if (site.counts.size() != threads_) site.counts.assign(threads_, 0);
    site.warps.resize((threads_ + warp_lanes - 1) / warp_lanes);
    if (!site.touched) {
      site.touched = true;
      touched_.push_back(access.site);
    }
    const std::uint32_t warp = access.thread / warp_lanes;
    Queue& queue = site.warps[warp];
    const std::uint32_t place = site.counts[access.thread]++ - queue.finished;
    if (place >= queue.requests.size()) queue.requests.resize(place + 1);
    Request& request = queue.requests[place];
    describe(request, access, space);
    request.add(access.thread % warp_lanes, access.address);
    const std::uint32_t whole = lanes_of(warp);
    while (!queue.requests.empty() && queue.requests.front().mask == whole) {
      count(access.site, queue.requests.front());
      queue.requests.pop_front();
      ++queue.finished;
    }
  }
  void begin_request() { explicit_ = true; }
  bool in_request() const { return explicit_; }
  // Within begin_request and end_request; several sites are several requests.
  void add_to_request(const Access& access, Space space) {
    Request& request = open_[access.site];
    describe(request, access, space);
    request.add(access.thread % warp_lanes, access.address);
  }
  void end_request() {
    for (const auto& [site, request] : open_) count(site, request);
    open_.clear();
    explicit_ = false;
  }
  void end_block() {
    for (const std::uint32_t index : touched_) {
      Site& site = sites_[index];
      for (Queue& queue : site.warps) {
        for (const Request& request : queue.requests)
          if (request.mask != 0) count(index, request);
        queue.requests.clear();
        queue.finished = 0;
      }
      std::fill(site.counts.begin(), site.counts.end(), 0u);
      site.touched = false;
    }
    touched_.clear();
  }
  void count(std::uint32_t site, const Request& request) {
    Traffic& traffic = traffic_[site];
    traffic.space = request.space;
    traffic.write = request.write;
    traffic.atomic = request.atomic;
    traffic.access_bytes = request.bytes;
    ++traffic.requests;
    traffic.bytes +=
        std::uint64_t{request.bytes} * static_cast<unsigned>(std::popcount(request.mask));
    if (request.space == Space::shared)
      count_shared(request, traffic);
    else
      count_global(request, traffic);
  }
  const std::map<std::uint32_t, Traffic>& traffic() const { return traffic_; }
  void clear() { traffic_.clear(); }

 private:
  struct Queue {
    std::uint32_t finished = 0;
    std::deque<Request> requests;
  };
  struct Site {
    bool touched = false;
    std::vector<std::uint32_t> counts;  // accesses of each thread
    std::vector<Queue> warps;
  };

  static void describe(Request& request, const Access& access, Space space) {
    request.space = space;
    request.write = access.write;
    request.atomic = access.atomic;
    request.bytes = access.bytes;
  }
  std::uint32_t lanes_of(std::uint32_t warp) const {
    const std::uint32_t left = threads_ - warp * warp_lanes;
    return left >= warp_lanes ? ~0u : (1u << left) - 1;
  }
  // The addresses in ascending order; most often they are so already.
  static std::uint32_t sorted(const Request& request, std::uint32_t lanes,
                              std::array<std::uint64_t, warp_lanes>& out) {
    std::uint32_t count = 0;
    for (std::uint32_t mask = request.mask & lanes; mask != 0; mask &= mask - 1)
      out[count++] = request.addresses[static_cast<unsigned>(std::countr_zero(mask))];
    if (!std::is_sorted(out.begin(), out.begin() + count))
      std::sort(out.begin(), out.begin() + count);
    return count;
  }
  static void count_global(const Request& request, Traffic& traffic) {
    std::array<std::uint64_t, warp_lanes> addresses;
    const std::uint32_t count = sorted(request, ~0u, addresses);
    std::uint64_t sectors_until = 0;  // sectors below this number are counted
    std::uint64_t bytes_until = 0;
    std::uint64_t distinct = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint64_t begin = addresses[i];
      const std::uint64_t end = begin + request.bytes;
      const std::uint64_t sector = std::max(begin / 32, sectors_until);
      const std::uint64_t sector_end = (end - 1) / 32 + 1;
      if (sector_end > sector) traffic.sectors += sector_end - sector;
      sectors_until = std::max(sectors_until, sector_end);
      if (end > bytes_until) distinct += end - std::max(begin, bytes_until);
      bytes_until = std::max(bytes_until, end);
    }
    traffic.ideal_sectors += (distinct + 31) / 32;
  }
  static void count_shared(const Request& request, Traffic& traffic) {
    const std::uint32_t lanes = request.bytes >= 16 ? 8 : request.bytes == 8 ? 16 : warp_lanes;
    for (std::uint32_t first = 0; first < warp_lanes; first += lanes) {
      std::array<std::uint64_t, warp_lanes> addresses;
      const std::uint32_t group = lanes == warp_lanes ? ~0u : ((1u << lanes) - 1) << first;
      const std::uint32_t count = sorted(request, group, addresses);
      if (count == 0) continue;
      std::array<std::uint32_t, 32> words = {};
      std::uint64_t counted_until = 0;
      std::uint64_t distinct = 0;
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint64_t end = (addresses[i] + request.bytes - 1) / 4 + 1;
        for (std::uint64_t word = std::max(addresses[i] / 4, counted_until); word < end; ++word) {
          ++words[word % 32];
          ++distinct;
        }
        counted_until = std::max(counted_until, end);
      }
      traffic.wavefronts += *std::max_element(words.begin(), words.end());
      traffic.ideal_wavefronts += (distinct + 31) / 32;
    }
  }

  std::uint32_t threads_ = 0;
  std::vector<Site> sites_;
  std::vector<std::uint32_t> touched_;
  bool explicit_ = false;
  std::map<std::uint32_t, Request> open_;
  std::map<std::uint32_t, Traffic> traffic_;
};

}  // namespace gpu_ladder::detail
