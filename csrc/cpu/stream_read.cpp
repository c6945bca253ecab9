#include "contracts/stream_read.h"

#include "cpu/parallel.h"

namespace adak::cpu {

double stream_read(const void* data, std::int64_t bytes, int threads) {
  const ReadLoops& loops = read_loops();
  constexpr std::int64_t parts = 64;
  const std::int64_t part = (bytes / parts + 4095) / 4096 * 4096;
  double sums[parts] = {};
  parallel_for(parts, threads, [&](std::int64_t index) {
    const std::int64_t begin = index * part;
    if (begin >= bytes) return;
    const std::int64_t size = bytes - begin < part ? bytes - begin : part;
    sums[index] = loops.read(static_cast<const char*>(data) + begin, size);
  });
  double total = 0;
  for (const double value : sums) total += value;
  return total;
}

}  // namespace adak::cpu
