// A task is a tile of some sample's features; the work on it is in ops/transpose_positions.inl.
#include "contracts/transpose_positions.h"

#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {

void transpose_positions(const TransposePositionsArgs& args) {
  const std::int64_t bytes = element_bytes(args.type);
  const std::int64_t lane = sum_bytes(args.type);
  const std::int64_t tiles = ceil_div(args.features, transposed_columns);
  const auto run = transpose_positions_loops().run[static_cast<int>(args.type)];
  parallel_for(args.samples * tiles, args.threads, [&](std::int64_t task) {
    const std::int64_t sample = task / tiles;
    const std::int64_t column = task % tiles * transposed_columns;
    const std::int64_t place = sample * args.features + column;
    const auto at = [](void* start, std::int64_t offset) {
      return start ? static_cast<char*>(start) + offset : nullptr;
    };
    run({static_cast<const char*>(args.values) + (sample * args.sample_stride + column) * bytes,
         args.position_stride, args.positions, least(transposed_columns, args.features - column),
         at(args.transposed, place * args.positions * bytes), at(args.sums, place * lane)});
  });
}

}  // namespace adak::cpu
