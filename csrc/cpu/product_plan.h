// How a convolution is cut: into tiles, groups of tiles, splits and blocks of samples.
#pragma once

#include <cstdint>

#include "cpu/product_kernels.h"
#include "cpu/sizes.h"

namespace adak::cpu {

// h_i[g; r, l] = sum_t a_i[g; r, t] b_i[g; l, t] for samples i, groups g and positions t.
struct ProductShape {
  std::int64_t samples;
  std::int64_t positions;
  std::int64_t groups;
  std::int64_t rows;
  std::int64_t lanes;
  std::int64_t row_cells;  // of a sample's image in cache, for each row of a tile
  std::int64_t sum_bytes;
  bool variance;
  bool products;
};

// When the inner products with the sum over all samples are taken.
enum class Dots {
  none,
  at_once,  // a tile's values of all samples are in cache when their sum is known
  kept,     // all values of a group of tiles are kept until then
  again,    // values are computed a second time
};

// A task is a group of tiles for a split of the samples, block by block. All of it is a function of
// the shape and the instruction set.
struct ProductPlan {
  static constexpr std::int64_t values_cells = 1 << 17;
  std::int64_t shape;  // of the tiles, in the list of the instruction set
  std::int64_t tile_rows;
  std::int64_t row_panels;  // tiles over the rows
  std::int64_t lane_panels;
  std::int64_t lane_vectors;  // of all lane panels together
  std::int64_t width;
  std::int64_t row_groups;
  std::int64_t lane_groups;
  std::int64_t splits;
  std::int64_t block;  // samples
  Dots dots;

  ProductPlan(const ProductShape& shape, const ProductKernels& kernels);

  std::int64_t first_vector(std::int64_t panel) const {
    const std::int64_t more = lane_vectors % lane_panels;
    return panel * (lane_vectors / lane_panels) + (panel < more ? panel : more);
  }
  std::int64_t vectors(std::int64_t panel) const {
    return first_vector(panel + 1) - first_vector(panel);
  }
  std::int64_t first_row_panel(std::int64_t group) const { return group * row_panels / row_groups; }
  std::int64_t first_lane_panel(std::int64_t group) const {
    return group * lane_panels / lane_groups;
  }
  // The most that a group has of each.
  std::int64_t group_row_panels() const { return ceil_div(row_panels, row_groups); }
  std::int64_t group_lanes() const {
    return ceil_div(lane_panels, lane_groups) * ceil_div(lane_vectors, lane_panels) * width;
  }
  // Elements of a group of tiles, padded.
  std::int64_t group_cells() const { return group_row_panels() * tile_rows * group_lanes(); }
  // Elements of a tile's values for a block, and how many such tiles stay in the second-level
  // cache.
  std::int64_t tile_values() const { return block * tile_rows * panel_lanes(); }
  std::int64_t chunk() const {
    const std::int64_t fit = values_cells / tile_values();
    return fit < 1 ? 1 : fit < group_row_panels() ? fit : group_row_panels();
  }
  std::int64_t panel_lanes() const { return ceil_div(lane_vectors, lane_panels) * width; }
};

}  // namespace adak::cpu
