// What CUDA's memory model says about the accesses of one grid.
//
// The model is told of every access and every synchronisation of every thread, in any order in
// which they may happen, and finds races by happens-before: two accesses of which at least one
// writes must be ordered by a barrier, a warp-wide synchronisation, or fences around atomics. It
// does not depend on the schedule: a missing barrier is found even where the numbers come out
// right. It also finds accesses outside of every registered buffer, reads of memory that nothing
// wrote, and accesses that are not aligned to their size, and counts the traffic that warps cause.
//
// Blocks run one at a time, each with fresh shared memory; grids follow one another, as on a
// stream. Addresses are the host's in both spaces: the model may read the memory behind them.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace gpu_ladder {

enum class Space : std::uint8_t { global, shared };

// `site` is the place in the program: a number that the caller chooses, small, since tables are
// indexed by it. A site is one instruction, of one space and one direction.
struct Access {
  std::uint32_t thread;  // linear in its block
  Space space;
  bool write;
  bool atomic;  // a read-modify-write where `write`; a relaxed or volatile load otherwise
  std::uint32_t bytes;
  std::uint64_t address;
  std::uint32_t site;
  const void* value = nullptr;  // the bytes to be written, or null where they are not known
  bool blind = false;  // an atomic that writes without reading: a relaxed or volatile store
};

// One instruction of a warp: the same access by every lane of `mask`.
struct WarpAccess {
  std::uint32_t warp;
  std::uint32_t mask;
  Space space;
  bool write;
  bool atomic;
  std::uint32_t bytes;  // of each lane
  std::uint32_t site;
  const std::uint64_t* addresses;       // [32]; those of lanes outside the mask are not read
  const void* const* values = nullptr;  // [32], or null
  bool blind = false;
};

struct Finding {
  enum class Kind : std::uint8_t {
    race,
    out_of_bounds,
    uninitialised,
    misaligned,
    divergent_barrier,
    divergent_collective,
    deadlock,
  };
  Kind kind;
  std::string message;  // with the names of the sites
  std::uint32_t site;
  std::uint64_t count;  // how often it happened; the message tells of the first
};
std::string_view name_of(Finding::Kind kind);

// What the requests of one site moved. A request is one instruction of one warp.
struct Traffic {
  Space space = Space::global;
  bool write = false;
  bool atomic = false;
  std::uint32_t access_bytes = 0;  // of one lane
  std::uint64_t requests = 0;
  std::uint64_t bytes = 0;          // that the lanes asked for
  std::uint64_t sectors = 0;        // global: of 32 bytes that the requests touched
  std::uint64_t ideal_sectors = 0;  // global: the fewest that hold so many distinct bytes
  std::uint64_t wavefronts = 0;     // shared: passes over the 32 banks
  std::uint64_t ideal_wavefronts = 0;
};

// Distinct sectors of 32 bytes that a grid touched: what has to move at least.
struct BufferTraffic {
  std::string name;
  std::uint64_t bytes;  // of the buffer
  std::uint64_t sectors_read;
  std::uint64_t sectors_written;
};

class MemoryModel {
 public:
  MemoryModel();
  ~MemoryModel();
  MemoryModel(const MemoryModel&) = delete;
  MemoryModel& operator=(const MemoryModel&) = delete;

  // Global memory that kernels may use. `initialised`: all of it holds values already; otherwise
  // only what kernels write. A buffer that overlaps an older one replaces it.
  void add_buffer(std::string name, std::uint64_t address, std::uint64_t bytes, bool initialised);
  void clear_buffers();
  // Somebody other than a kernel has written there.
  void mark_initialised(std::uint64_t address, std::uint64_t bytes);
  // Shared memory beside that of begin_grid: variables with addresses of their own. It stays from
  // grid to grid until cleared.
  void add_shared(std::string name, std::uint64_t address, std::uint64_t bytes);
  void clear_shared();

  // `shared_base` is the address of the block's dynamic (or all) shared memory; 0 bytes: none.
  void begin_grid(std::array<unsigned, 3> grid, std::array<unsigned, 3> block,
                  std::uint64_t shared_base, std::uint64_t shared_bytes);
  void begin_block(std::uint32_t block);
  void end_block();
  void end_grid();

  // To be called before the access is performed. False: it is out of bounds and must not be
  // performed. Accesses that are neither aligned nor in order are reported, and allowed.
  bool access(const Access& access);
  // A write that begins and is not done: until `access` hears of it, what stood there is lost, and
  // what will stand there is not there yet. Both are ordered with what others do.
  bool begin_write(const Access& access);
  // Returns the lanes whose access may be performed, and counts one request.
  std::uint32_t access_warp(const WarpAccess& access);
  // All accesses in between are one request; without them, requests are the n-th accesses of the
  // lanes of a warp at the same site.
  void begin_request();
  void end_request();

  // All threads of the block; warp_sync: the lanes of `mask`, by shuffles, votes and __syncwarp.
  void block_barrier();
  void warp_sync(std::uint32_t warp, std::uint32_t mask);
  // __threadfence and its like. Acquiring or releasing atomics: a fence after, or before, a relaxed
  // one.
  void fence(std::uint32_t thread);

  // What others find: a divergent barrier, for instance. Every kind is kept once for each site.
  void report(Finding::Kind kind, const std::string& message, std::uint32_t site);
  const std::vector<Finding>& findings() const;
  void clear_findings();

  // By site, over all grids since clear_traffic; the buffers' since the last begin_grid.
  const std::map<std::uint32_t, Traffic>& traffic() const;
  std::vector<BufferTraffic> buffer_traffic() const;
  void clear_traffic();
  void count_traffic(bool enabled);  // as it is by default

  // How a site is called in messages; by default its number.
  void name_sites(std::function<std::string(std::uint32_t)> name);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gpu_ladder
