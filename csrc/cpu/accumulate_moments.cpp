// Cuts a chunk into tiles of columns, by its shape alone; the arithmetic is in
// ops/accumulate_moments.inl. Partial norms have a place for every group of tiles and are added in
// the order of their places, so that results are bitwise the same for any number of threads.
#include "contracts/accumulate_moments.h"

#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {
namespace {

// Columns of a tile: sum and squares stay in the first-level cache between groups of rows.
constexpr std::int64_t tile_columns = accumulated_columns;
// Below this many bytes, waking threads costs more than they save.
constexpr std::int64_t serial_bytes = 128 << 10;

std::int64_t tiles_of(const AccumulateMomentsArgs& args) {
  return most(1, ceil_div(args.features, tile_columns));
}
std::int64_t groups_of(const AccumulateMomentsArgs& args) { return least(tiles_of(args), 64); }

char* at(void* data, std::int64_t element, std::int64_t bytes) {
  return data ? static_cast<char*>(data) + element * bytes : nullptr;
}

}  // namespace

std::int64_t accumulate_moments_workspace(const AccumulateMomentsArgs& args) {
  return groups_of(args) * args.rows * 8;
}

void accumulate_moments(const AccumulateMomentsArgs& args) {
  const std::int64_t groups = groups_of(args);
  const std::int64_t bytes = element_bytes(args.type);
  const std::int64_t size = sum_bytes(args.type);
  const auto run = accumulate_loops().columns[static_cast<int>(args.type)];
  double* const partial = static_cast<double*>(args.workspace);
  const int threads = args.rows * args.features * bytes < serial_bytes ? 1 : args.threads;
  parallel_for(groups, threads, [&](std::int64_t group) {
    double* const norms = partial + group * args.rows;
    for (std::int64_t row = 0; row < args.rows; ++row) norms[row] = 0;
    const std::int64_t end = (group + 1) * tiles_of(args) / groups;
    for (std::int64_t tile = group * tiles_of(args) / groups; tile < end; ++tile) {
      const std::int64_t start = tile * tile_columns;
      run({{static_cast<const char*>(args.chunk) + start * bytes, args.row_stride, args.rows,
            least(tile_columns, args.features - start)},
           at(args.sum, start, size),
           at(args.squares, start, size),
           args.samples,
           norms});
    }
  });
  for (std::int64_t row = 0; row < args.rows; ++row) {
    double total = 0;
    for (std::int64_t group = 0; group < groups; ++group) total += partial[group * args.rows + row];
    args.sq_norms[row] = total;
  }
}

}  // namespace adak::cpu
