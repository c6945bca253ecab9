// Cuts G into tiles, and tiles into sweeps; the arithmetic is in ops/batch_moments.inl.
//
// The cut depends on the shape alone, never on the number of threads, and partial sums are added in
// a fixed order: results are bitwise the same for any number of threads.
#include "contracts/batch_moments.h"

#include "cpu/huge_pages.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {
namespace {

constexpr std::int64_t alignment = 64;

// How a matrix is cut: `tiles` tiles of `columns` columns, and `bands` bands of `band_rows` rows.
// Neighbouring tiles form `groups` groups; a group runs on one thread, tile after tile.
struct Plan {
  std::int64_t columns;
  std::int64_t tiles;
  std::int64_t groups;
  std::int64_t band_rows;
  std::int64_t bands;
  bool products_in_cache;  // the second sweep of a tile finds it in cache

  explicit Plan(const BatchMomentsArgs& args);

  std::int64_t first_tile(std::int64_t group) const { return group * tiles / groups; }
};

Plan::Plan(const BatchMomentsArgs& args) {
  // Wide tiles keep the memory streaming: every row of a tile is a new place in memory, where the
  // prefetchers start afresh. On a Zen 3 core norms cost 1.0x of a plain read with 4,096 columns,
  // 1.2x with 1,024 and 1.6x with 256; the column sums of 4,096 still fit in the second-level
  // cache.
  constexpr std::int64_t widest = moments_columns;
  // The second sweep finds a tile in the last-level cache, where it shares these bytes with the
  // next tile coming in. So many rows that tiles would be narrower than this are read twice.
  constexpr std::int64_t cache_bytes = 4 << 20;
  constexpr std::int64_t narrowest = 1024;
  constexpr std::int64_t line = 64;  // columns: tiles start on a cache line where rows do
  // Few columns: cut the rows as well, so that there is work for every thread. Where rows are few
  // too, tiles are narrower instead, which costs one thread about a tenth.
  constexpr std::int64_t shortest_band = 512;
  constexpr std::int64_t fewest_tiles = 4;
  columns = widest;
  if (args.samples < 2 * shortest_band)
    columns = least(widest, most(narrowest, round_up(ceil_div(args.features, fewest_tiles), line)));
  products_in_cache = args.inner_products != nullptr;
  if (products_in_cache) {
    const std::int64_t fits = cache_bytes / 2 / (args.samples * element_bytes(args.type));
    if (fits < narrowest) {
      products_in_cache = false;
    } else {
      columns = least(columns, fits / line * line);
    }
  }
  tiles = most(1, (args.features + columns - 1) / columns);
  groups = least(tiles, 64);
  bands = most(1, least(64 / tiles, args.samples / shortest_band));
  if (bands > 1) products_in_cache = false;
  constexpr std::int64_t rows_together = 8;  // by the widest vectors; others are taken singly
  band_rows = round_up(ceil_div(args.samples, bands), rows_together);
  bands = (args.samples + band_rows - 1) / band_rows;
}

std::int64_t shift_bytes(const BatchMomentsArgs& args, const Plan& plan) {
  return round_up(least(plan.columns, args.features) * sum_bytes(args.type), alignment);
}

// The parts of the workspace, in bytes from its start.
struct Workspace {
  std::int64_t norms;     // [groups, samples] double
  std::int64_t products;  // [groups, samples] double
  std::int64_t shift;     // [groups, bands, columns] sum type
  std::int64_t means;     // [bands - 1, features] sum type
  std::int64_t squares;   // [bands - 1, features] sum type
  std::int64_t bytes;

  Workspace(const BatchMomentsArgs& args, const Plan& plan) {
    const std::int64_t partial = round_up(plan.groups * args.samples * 8, alignment);
    const std::int64_t row = round_up(args.features * sum_bytes(args.type), alignment);
    norms = 0;
    products = norms + (plan.groups > 1 ? partial : 0);
    shift = products + (plan.groups > 1 && args.inner_products ? partial : 0);
    means = shift + (args.variance ? plan.groups * plan.bands * shift_bytes(args, plan) : 0);
    squares = means + (plan.bands - 1) * row;
    bytes = squares + (args.variance ? (plan.bands - 1) * row : 0);
  }
};

struct Run {
  const BatchMomentsArgs& args;
  Plan plan;
  Workspace workspace;
  const MomentsLoops& loops;
  int type;

  explicit Run(const BatchMomentsArgs& arguments)
      : args(arguments),
        plan(arguments),
        workspace(arguments, plan),
        loops(moments_loops()),
        type(static_cast<int>(arguments.type)) {}

  char* at(std::int64_t offset) const { return static_cast<char*>(args.workspace) + offset; }
  char* column(void* row, std::int64_t start) const {
    return row ? static_cast<char*>(row) + start * sum_bytes(args.type) : nullptr;
  }
  char* element(void* row, std::int64_t start) const {
    return row ? static_cast<char*>(row) + start * element_bytes(args.type) : nullptr;
  }
  std::int64_t row_bytes() const {
    return round_up(args.features * sum_bytes(args.type), alignment);
  }

  // Partial sums over one group's tiles; a single group writes the result itself.
  double* partial(std::int64_t offset, double* result, std::int64_t group) const {
    if (plan.groups == 1) return result;
    return reinterpret_cast<double*>(at(offset)) + group * args.samples;
  }
  void* band_mean(std::int64_t band) const {
    return band == 0 ? args.mean : at(workspace.means + (band - 1) * row_bytes());
  }
  void* band_squares(std::int64_t band) const {
    if (args.variance == nullptr || band == 0) return args.variance;
    return at(workspace.squares + (band - 1) * row_bytes());
  }

  Block block(std::int64_t tile, std::int64_t band) const {
    const std::int64_t start = tile * plan.columns;
    const std::int64_t row = band * plan.band_rows;
    const char* grads = static_cast<const char*>(args.grads);
    return {grads + (row * args.row_stride + start) * element_bytes(args.type), args.row_stride,
            least(plan.band_rows, args.samples - row), least(plan.columns, args.features - start)};
  }
  MomentsSweep moments(std::int64_t group, std::int64_t tile, std::int64_t band) const {
    const std::int64_t start = tile * plan.columns;
    const std::int64_t task = band * plan.groups + group;
    char* shift = args.variance ? at(workspace.shift + task * shift_bytes(args, plan)) : nullptr;
    return {block(tile, band), column(band_mean(band), start), column(band_squares(band), start),
            shift, partial(workspace.norms, args.sq_norms, group) + band * plan.band_rows};
  }
  ProductsSweep products(std::int64_t group, std::int64_t tile, std::int64_t band) const {
    return {block(tile, band), column(args.mean, tile * plan.columns),
            partial(workspace.products, args.inner_products, group) + band * plan.band_rows};
  }

  // Adds `from` and the bands that it has taken in to `into`, which has all between them.
  void merge(std::int64_t tile, std::int64_t into, std::int64_t from) const {
    const std::int64_t start = tile * plan.columns;
    const std::int64_t before = (from - into) * plan.band_rows;
    loops.merge[type]({column(band_mean(into), start), column(band_squares(into), start),
                       column(band_mean(from), start), column(band_squares(from), start),
                       least(plan.columns, args.features - start), before,
                       least(before, args.samples - from * plan.band_rows)});
  }

  void finish(std::int64_t tile) const {
    const std::int64_t start = tile * plan.columns;
    // In pairs, and pairs of pairs: rounding grows with the logarithm of their number.
    for (std::int64_t apart = 1; apart < plan.bands; apart *= 2)
      for (std::int64_t band = 0; band + apart < plan.bands; band += 2 * apart)
        merge(tile, band, band + apart);
    loops.finish[type]({column(args.mean, start), column(args.variance, start),
                        element(args.param, start), element(args.state_sum, start),
                        least(plan.columns, args.features - start), args.samples, args.scalars});
  }

  static void clear(double* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = 0;
  }
  void clear(std::int64_t offset, double* result, std::int64_t group, std::int64_t band) const {
    clear(partial(offset, result, group) + band * plan.band_rows, block(0, band).rows);
  }

  // All tiles of a group in turn; the second sweep of one beside the first sweep of the next.
  void group(std::int64_t group, std::int64_t band) const {
    clear(workspace.norms, args.sq_norms, group, band);
    if (plan.products_in_cache) clear(workspace.products, args.inner_products, group, band);
    const std::int64_t begin = plan.first_tile(group);
    const std::int64_t end = plan.first_tile(group + 1);
    ProductsSweep second{};
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const MomentsSweep first = moments(group, tile, band);
      loops.sweep[type](&first, plan.products_in_cache && tile > begin ? &second : nullptr);
      if (plan.bands == 1) finish(tile);
      second = products(group, tile, band);
    }
    if (plan.products_in_cache) loops.sweep[type](nullptr, &second);
  }

  // The second read of G, where no tile of it stays in cache.
  void second_read(std::int64_t group, std::int64_t band) const {
    clear(workspace.products, args.inner_products, group, band);
    for (std::int64_t t = plan.first_tile(group); t < plan.first_tile(group + 1); ++t) {
      const ProductsSweep second = products(group, t, band);
      loops.sweep[type](nullptr, &second);
    }
  }

  // Adds the groups' partial sums, in their order.
  void add_groups(std::int64_t offset, double* result) const {
    if (plan.groups == 1 || result == nullptr) return;
    const double* partials = reinterpret_cast<const double*>(at(offset));
    for (std::int64_t row = 0; row < args.samples; ++row) {
      double total = 0;
      for (std::int64_t g = 0; g < plan.groups; ++g) total += partials[g * args.samples + row];
      result[row] = total;
    }
  }
};

// Below this many bytes of G, waking threads costs more than they save.
constexpr std::int64_t serial_bytes = 128 << 10;

}  // namespace

std::int64_t batch_moments_workspace(const BatchMomentsArgs& args) {
  return Workspace(args, Plan(args)).bytes;
}

void batch_moments(const BatchMomentsArgs& args) {
  const Run run(args);
  const Plan& plan = run.plan;
  const std::int64_t output_bytes = args.features * sum_bytes(args.type);
  prefer_huge_pages(args.mean, output_bytes);
  if (args.variance) prefer_huge_pages(args.variance, output_bytes);
  const std::int64_t bytes = args.samples * args.features * element_bytes(args.type);
  const int threads = bytes < serial_bytes ? 1 : args.threads;
  parallel_for(plan.groups * plan.bands, threads,
               [&](std::int64_t task) { run.group(task % plan.groups, task / plan.groups); });
  if (plan.bands > 1)
    parallel_for(plan.tiles, threads, [&](std::int64_t tile) { run.finish(tile); });
  if (args.inner_products && !plan.products_in_cache)
    parallel_for(plan.groups * plan.bands, threads, [&](std::int64_t task) {
      run.second_read(task % plan.groups, task / plan.groups);
    });
  run.add_groups(run.workspace.norms, args.sq_norms);
  run.add_groups(run.workspace.products, args.inner_products);
}

}  // namespace adak::cpu
