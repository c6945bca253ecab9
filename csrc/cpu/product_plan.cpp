#include "cpu/product_plan.h"

namespace adak::cpu {
namespace {

// Rows of a block: positions of all its samples. Its panels of b stay in the second-level cache.
constexpr std::int64_t block_rows = 768;
constexpr std::int64_t most_block_samples = 96;
// What one task may hold of packed panels where all samples are in one block, and of kept values.
constexpr std::int64_t panel_bytes = 6 << 20;
constexpr std::int64_t kept_bytes = 8 << 20;
// A block has one sample at least, however long: then tasks have fewer rows.
constexpr std::int64_t packed_bytes = 8 << 20;
// A task packs its own panels: in narrow ones that shows. A 2,048 x 2,048 gradient of 512 rows took
// 1.14 of MKL's with 288 lanes on a Zen 4 core, 1.04 with 576, and layers of 128 positions as long.
constexpr std::int64_t widest_rows = 256;
constexpr std::int64_t widest_lanes = 576;
// So that there is work for several threads.
constexpr std::int64_t wanted_tasks = 8;
// Splits of the samples have sums of their own, which are merged in the end.
constexpr std::int64_t split_bytes = 1 << 19;
constexpr std::int64_t shared_kept_bytes = 16 << 20;

// Vector operations for one position, and a little for the loads.
double cost(const ProductShape& shape, std::int64_t width, const TileShape& tile) {
  const std::int64_t vectors = ceil_div(shape.lanes, width);
  const std::int64_t lane_panels = ceil_div(vectors, tile.vectors);
  const std::int64_t row_panels = ceil_div(shape.rows, tile.rows);
  const std::int64_t products = row_panels * tile.rows * vectors;
  const std::int64_t loads = row_panels * (vectors + lane_panels * tile.rows);
  return static_cast<double>(products) + 0.25 * static_cast<double>(loads);
}

// The least number from `count` on whose product with the others is even.
std::int64_t even(std::int64_t count, std::int64_t other, std::int64_t another) {
  return count + count * other * another % 2;
}

}  // namespace

ProductPlan::ProductPlan(const ProductShape& s, const ProductKernels& kernels) {
  shape = 0;
  width = kernels.width;
  for (std::int64_t i = 1; i < kernels.shape_count; ++i)
    if (cost(s, width, kernels.shapes[i]) < cost(s, width, kernels.shapes[shape])) shape = i;
  const TileShape& tile = kernels.shapes[shape];
  tile_rows = tile.rows;
  row_panels = most(1, ceil_div(s.rows, tile_rows));
  lane_vectors = most(1, ceil_div(s.lanes, width));
  lane_panels = ceil_div(lane_vectors, tile.vectors);

  const std::int64_t positions = most(1, s.positions);
  block = least(s.samples, most(1, least(block_rows / positions, most_block_samples)));
  row_groups = most(1, ceil_div(s.rows, widest_rows));
  lane_groups = most(1, ceil_div(s.lanes, widest_lanes));
  // Of three tasks or five, one of two threads does most.
  if (s.groups * row_groups * lane_groups > 1) row_groups = even(row_groups, lane_groups, s.groups);
  row_groups = least(row_groups, row_panels);
  while (row_groups < row_panels &&
         block * group_row_panels() * tile_rows * s.row_cells * s.sum_bytes > packed_bytes)
    ++row_groups;
  splits = 1;
  dots = Dots::none;

  const auto groups_of_tiles = [&] { return s.groups * row_groups * lane_groups; };
  const std::int64_t cells = row_panels * tile_rows * lane_vectors * width;
  const bool small = 2 * s.groups * cells * s.sum_bytes <= split_bytes;
  if (!s.products || row_panels * lane_panels < wanted_tasks / 2) {
    if (small) {
      splits = least(ceil_div(wanted_tasks, groups_of_tiles()), ceil_div(s.samples, block));
      if (splits > 1) splits = least(even(splits, groups_of_tiles(), 1), s.samples);
    }
  }
  if (splits == 1) {
    // Narrower groups, the longer side first.
    while (groups_of_tiles() < wanted_tasks / 2) {
      const bool by_rows = group_row_panels() * tile_rows >= group_lanes();
      if (by_rows && row_groups < row_panels) {
        row_groups = least(row_panels, 2 * row_groups);
      } else if (lane_groups < lane_panels) {
        lane_groups = least(lane_panels, 2 * lane_groups);
      } else if (row_groups < row_panels) {
        row_groups = least(row_panels, 2 * row_groups);
      } else {
        break;
      }
    }
  }
  if (!s.products) return;

  const auto panels = [&] {
    const std::int64_t rows = group_row_panels() * tile_rows * s.row_cells;
    return s.samples * (rows + positions * panel_lanes()) * s.sum_bytes;
  };
  if (splits > 1) {
    dots =
        s.samples * s.groups * cells * s.sum_bytes <= shared_kept_bytes ? Dots::kept : Dots::again;
    return;
  }
  const std::int64_t before = row_groups;
  while (panels() > panel_bytes && row_groups < row_panels && group_row_panels() * tile_rows > 64)
    ++row_groups;
  if (panels() <= panel_bytes) {
    dots = Dots::at_once;
    block = s.samples;
    return;
  }
  row_groups = before;
  const auto kept = [&] { return s.samples * group_cells() * s.sum_bytes; };
  while (kept() > kept_bytes && (row_groups < row_panels || lane_groups < lane_panels)) {
    if (lane_groups < lane_panels && group_lanes() > group_row_panels() * tile_rows) {
      ++lane_groups;
    } else if (row_groups < row_panels) {
      ++row_groups;
    } else {
      ++lane_groups;
    }
  }
  const std::int64_t tiles = group_row_panels() * ceil_div(lane_panels, lane_groups);
  dots = kept() <= kept_bytes && (tiles > 1 || row_panels * lane_panels == 1) ? Dots::kept
                                                                              : Dots::again;
  if (dots == Dots::again)
    *this = [&] {
      ProductShape plain = s;
      plain.products = false;
      ProductPlan plan(plain, kernels);
      plan.dots = Dots::again;
      return plan;
    }();
}

}  // namespace adak::cpu
