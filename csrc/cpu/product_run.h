// Runs a plan. A Source packs the operands.
//
// Tasks write what is theirs alone; partial sums of norms and products have a place for every group
// of tiles, and are added in the order of their places.
#pragma once

#include <atomic>
#include <cstring>

#include "cpu/huge_pages.h"
#include "cpu/parallel.h"
#include "cpu/product_plan.h"

namespace adak::cpu {

// Where the results go; of a group's weights [rows, lanes], elements of the sum type.
struct ProductOutputs {
  void* weight_grad;
  void* weight_variance;  // or null
  double* sq_norms;
  double* inner_products;  // or null
  std::int64_t group_stride;
  std::int64_t row_stride;
  std::int64_t lane_stride;
};

// What a task packs and multiplies in; one for each thread.
struct ProductBuffers {
  char* rows;
  char* lanes;
  char* values;
  char* sum;
  char* squares;
  char* column_sums;
};

// A group of tiles and the samples of one split.
struct ProductTask {
  std::int64_t slot;  // place of the partial sums
  std::int64_t split;
  std::int64_t group;
  std::int64_t row_panel, row_panel_end;
  std::int64_t lane_panel, lane_panel_end;
  std::int64_t sample, sample_end;
};

// A tile that is being computed, for `count` samples of a block, after `skipped` others.
struct ProductPlace {
  std::int64_t lane;
  std::int64_t row;
  std::int64_t sample;  // of the block
  std::int64_t samples;
  std::int64_t skipped;
  std::int64_t count;
  std::int64_t positions;  // that tiles of this panel have gone through
};

// Of packed lanes, in the first-level cache.
inline constexpr std::int64_t packed_bytes = 26 << 10;

// A vector may be stored over the end of a packed row.
inline constexpr std::int64_t packing_slack = 32;

template <class Source>
struct ProductRun {
  const Source& source;
  const ProductShape& shape;
  const ProductPlan& plan;
  const ProductKernels& kernels;
  ProductOutputs outputs;
  int threads;
  char* workspace;

  std::int64_t slots() const { return shape.groups * plan.row_groups * plan.lane_groups; }
  std::int64_t tasks() const { return slots() * plan.splits; }
  std::int64_t workers() const { return tasks() < threads ? tasks() : threads; }

  static std::int64_t round_up(std::int64_t bytes) { return ceil_div(bytes, 64) * 64; }
  std::int64_t partial_bytes() const { return round_up(slots() * shape.samples * 8); }
  std::int64_t state_bytes() const { return round_up(plan.group_cells() * shape.sum_bytes); }
  std::int64_t kept_bytes() const {
    const std::int64_t samples = ceil_div(shape.samples, plan.splits);
    return round_up(samples * plan.group_cells() * shape.sum_bytes);
  }
  std::int64_t rows_bytes() const { return round_up(source.rows_cells(plan) * shape.sum_bytes); }
  std::int64_t lanes_bytes() const {
    const std::int64_t cells = plan.block * shape.positions * plan.panel_lanes();
    return round_up((cells + packing_slack) * shape.sum_bytes);
  }
  std::int64_t values_bytes() const {
    if (plan.dots == Dots::kept) return plan.splits > 1 ? 0 : kept_bytes();
    return round_up(plan.chunk() * plan.tile_values() * shape.sum_bytes);
  }
  std::int64_t column_sums_bytes() const {
    const std::int64_t rows = plan.group_row_panels() * plan.tile_rows;
    const std::int64_t lanes = plan.panel_lanes();
    return round_up(((rows > lanes ? rows : lanes) + packing_slack) * shape.sum_bytes);
  }
  std::int64_t states() const { return shape.variance ? 2 : 1; }
  std::int64_t shared_bytes() const {
    std::int64_t bytes = 0;
    if (slots() > 1) bytes += partial_bytes() * (shape.products ? 2 : 1);
    if (plan.splits > 1) {
      bytes += tasks() * states() * state_bytes();
      if (plan.dots == Dots::kept) bytes += tasks() * kept_bytes();
    }
    return bytes;
  }
  std::int64_t worker_bytes() const {
    const std::int64_t state = plan.splits > 1 ? 0 : states() * state_bytes();
    return rows_bytes() + lanes_bytes() + values_bytes() + column_sums_bytes() + state;
  }
  std::int64_t bytes() const { return shared_bytes() + workers() * worker_bytes(); }

  double* norms(std::int64_t slot) const {
    if (slots() == 1) return outputs.sq_norms;
    return reinterpret_cast<double*>(workspace) + slot * shape.samples;
  }
  double* products(std::int64_t slot) const {
    if (slots() == 1) return outputs.inner_products;
    return reinterpret_cast<double*>(workspace + partial_bytes()) + slot * shape.samples;
  }

  ProductTask task(std::int64_t index) const {
    ProductTask t;
    t.split = index % plan.splits;
    t.slot = index / plan.splits;
    const std::int64_t lane_group = t.slot % plan.lane_groups;
    const std::int64_t row_group = t.slot / plan.lane_groups % plan.row_groups;
    t.group = t.slot / plan.lane_groups / plan.row_groups;
    t.row_panel = plan.first_row_panel(row_group);
    t.row_panel_end = plan.first_row_panel(row_group + 1);
    t.lane_panel = plan.first_lane_panel(lane_group);
    t.lane_panel_end = plan.first_lane_panel(lane_group + 1);
    t.sample = shape.samples * t.split / plan.splits;
    t.sample_end = shape.samples * (t.split + 1) / plan.splits;
    return t;
  }

  ProductBuffers buffers(std::int64_t worker, const ProductTask& t) const {
    ProductBuffers b;
    char* at = workspace + shared_bytes() + worker * worker_bytes();
    const auto take = [&at](std::int64_t size) { return (at += size) - size; };
    b.rows = take(rows_bytes());
    b.lanes = take(lanes_bytes());
    b.values = take(values_bytes());
    b.column_sums = take(column_sums_bytes());
    b.sum = take(0);
    if (plan.splits > 1) {
      b.sum = state(t.slot, t.split);
      if (plan.dots == Dots::kept)
        b.values = state(slots(), 0) + (t.slot * plan.splits + t.split) * kept_bytes();
    }
    b.squares = shape.variance ? b.sum + state_bytes() : nullptr;
    return b;
  }
  char* state(std::int64_t slot, std::int64_t split) const {
    const std::int64_t partials = slots() > 1 ? partial_bytes() * (shape.products ? 2 : 1) : 0;
    return workspace + partials + (slot * plan.splits + split) * states() * state_bytes();
  }

  // A tile among those of its task: elements before it, in the order in which they are computed.
  std::int64_t tile_cells(const ProductTask& t, std::int64_t lane, std::int64_t row) const {
    const std::int64_t lanes = plan.first_vector(lane) - plan.first_vector(t.lane_panel);
    const std::int64_t rows = (t.row_panel_end - t.row_panel) * plan.tile_rows;
    return (lanes * rows + (row - t.row_panel) * plan.tile_rows * plan.vectors(lane)) * plan.width;
  }
  std::int64_t used_rows(std::int64_t row) const {
    const std::int64_t left = shape.rows - row * plan.tile_rows;
    return left < plan.tile_rows ? left : plan.tile_rows;
  }
  char* cell(char* base, std::int64_t cells) const {
    return base ? base + cells * shape.sum_bytes : nullptr;
  }

  // Where a tile's values of a block are: its first sample's, and how far apart its rows.
  struct Values {
    char* first;
    std::int64_t row_pitch;
  };
  Values values(const ProductTask& t, const ProductBuffers& b, std::int64_t lane, std::int64_t row,
                std::int64_t sample) const {
    const std::int64_t across = plan.vectors(lane) * plan.width;
    if (plan.dots != Dots::kept) {
      const std::int64_t place = (row - t.row_panel) % plan.chunk();
      return {cell(b.values, place * plan.tile_values()), plan.block * across};
    }
    const std::int64_t samples = t.sample_end - t.sample;
    const std::int64_t cells = tile_cells(t, lane, row) * samples + (sample - t.sample) * across;
    return {cell(b.values, cells), samples * across};
  }

  void sweep(const ProductTask& t, const ProductBuffers& b, std::int64_t lane, std::int64_t row,
             std::int64_t sample, std::int64_t samples) const {
    const Values v = values(t, b, lane, row, sample);
    const std::int64_t at = tile_cells(t, lane, row);
    kernels.sweep({v.first, v.row_pitch, used_rows(row), plan.vectors(lane), samples,
                   sample - t.sample, cell(b.sum, at), cell(b.squares, at)});
  }
  void dots(const ProductTask& t, const ProductBuffers& b, const char* sum, std::int64_t lane,
            std::int64_t row, std::int64_t sample, std::int64_t samples) const {
    const Values v = values(t, b, lane, row, sample);
    kernels.dots({v.first, v.row_pitch, used_rows(row), plan.vectors(lane), samples,
                  sum + tile_cells(t, lane, row) * shape.sum_bytes, products(t.slot) + sample});
  }

  // The samples whose packed lanes stay in the first-level cache while a chunk's tiles go by.
  std::int64_t samples_in_cache(std::int64_t lane) const {
    const std::int64_t cells = shape.positions * plan.vectors(lane) * plan.width;
    const std::int64_t fit = packed_bytes / (cells * shape.sum_bytes);
    return plan.chunk() == 1 ? plan.block : fit < 1 ? 1 : fit;
  }

  // Computes all tiles of a task, block by block; each(lane, row, sample, samples) follows each.
  template <class Each>
  void compute(const ProductTask& t, const ProductBuffers& b, double* sq_norms, bool sums,
               const Each& each) const {
    source.begin(t, plan, b);
    for (std::int64_t sample = t.sample; sample < t.sample_end; sample += plan.block) {
      const std::int64_t samples = least(plan.block, t.sample_end - sample);
      source.pack_rows(t, plan, b, sample, samples, sums);
      for (std::int64_t lane = t.lane_panel; lane < t.lane_panel_end; ++lane) {
        source.pack_lanes(t, plan, b, lane, sample, samples, sums);
        const std::int64_t step = samples_in_cache(lane);
        std::int64_t positions = 0;
        for (std::int64_t row = t.row_panel; row < t.row_panel_end; row += plan.chunk()) {
          const std::int64_t end = least(row + plan.chunk(), t.row_panel_end);
          for (std::int64_t s = 0; s < samples; s += step) {
            const std::int64_t count = least(step, samples - s);
            for (std::int64_t r = row; r < end; ++r) {
              tile(t, b, {lane, r, sample, samples, s, count, positions}, sq_norms);
              positions += count * shape.positions;
            }
          }
          for (std::int64_t r = row; r < end; ++r) each(lane, r, sample, samples);
        }
      }
    }
  }

  void tile(const ProductTask& t, const ProductBuffers& b, const ProductPlace& place,
            double* sq_norms) const {
    const Values v = values(t, b, place.lane, place.row, place.sample);
    const std::int64_t across = plan.vectors(place.lane) * plan.width;
    ProductTile tile = source.tile(t, plan, b, place.row);
    tile.broadcast = static_cast<const char*>(tile.broadcast) +
                     place.skipped * tile.broadcast_sample * shape.sum_bytes;
    tile.lanes_sample = shape.positions * across;
    tile.lanes = b.lanes + place.skipped * tile.lanes_sample * shape.sum_bytes;
    tile.samples = place.count;
    tile.used_rows = used_rows(place.row);
    tile.values = v.first + place.skipped * across * shape.sum_bytes;
    tile.row_pitch = v.row_pitch;
    tile.sq_norms = sq_norms ? sq_norms + place.sample + place.skipped : nullptr;
    source.ask(t, plan, tile, place);
    const TileShape& all = kernels.shapes[plan.shape];
    all.tiles[plan.vectors(place.lane) - 1](tile);
  }

  static void clear(double* values, std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) values[i] = 0;
  }

  void accumulate(const ProductTask& t, const ProductBuffers& b) const {
    clear(norms(t.slot), t.sample, t.sample_end);
    if (plan.dots == Dots::at_once) clear(products(t.slot), t.sample, t.sample_end);
    compute(t, b, norms(t.slot), true,
            [&](std::int64_t lane, std::int64_t row, std::int64_t sample, std::int64_t samples) {
              sweep(t, b, lane, row, sample, samples);
              if (plan.dots == Dots::at_once) dots(t, b, b.sum, lane, row, sample, samples);
            });
  }

  // The inner products, where the sum was not known when the values were.
  void multiply(const ProductTask& t, const ProductBuffers& b, const char* sum) const {
    clear(products(t.slot), t.sample, t.sample_end);
    if (plan.dots == Dots::again) {
      compute(t, b, nullptr, false,
              [&](std::int64_t lane, std::int64_t row, std::int64_t sample, std::int64_t samples) {
                dots(t, b, sum, lane, row, sample, samples);
              });
      return;
    }
    for (std::int64_t lane = t.lane_panel; lane < t.lane_panel_end; ++lane)
      for (std::int64_t row = t.row_panel; row < t.row_panel_end; ++row)
        dots(t, b, sum, lane, row, t.sample, t.sample_end - t.sample);
  }

  template <class Lane>
  void merge(std::int64_t slot) const {
    Lane* sum = reinterpret_cast<Lane*>(state(slot, 0));
    Lane* squares = reinterpret_cast<Lane*>(state(slot, 0) + state_bytes());
    for (std::int64_t split = 1; split < plan.splits; ++split) {
      const Lane* more = reinterpret_cast<const Lane*>(state(slot, split));
      const Lane* spread = reinterpret_cast<const Lane*>(state(slot, split) + state_bytes());
      const ProductTask t = task(slot * plan.splits + split);
      const double n = static_cast<double>(t.sample);
      const double r = static_cast<double>(t.sample_end - t.sample);
      const Lane by_n = static_cast<Lane>(1 / n), by_r = static_cast<Lane>(1 / r);
      const Lane pooled = static_cast<Lane>(n * r / (n + r));
      for (std::int64_t i = 0; i < plan.group_cells(); ++i) {
        if (shape.variance) {
          const Lane delta = more[i] * by_r - sum[i] * by_n;
          squares[i] += spread[i] + delta * delta * pooled;
        }
        sum[i] += more[i];
      }
    }
  }

  template <class Lane>
  void write(const ProductTask& t, const ProductBuffers& b) const {
    const Lane degrees = static_cast<Lane>(shape.samples - 1);
    for (std::int64_t lane = t.lane_panel; lane < t.lane_panel_end; ++lane) {
      const std::int64_t first_lane = plan.first_vector(lane) * plan.width;
      const std::int64_t across = plan.vectors(lane) * plan.width;
      const std::int64_t left = shape.lanes - first_lane;
      const std::int64_t lanes = left < across ? left : across;
      for (std::int64_t row = t.row_panel; row < t.row_panel_end; ++row) {
        const std::int64_t at = tile_cells(t, lane, row);
        const Lane* sum = reinterpret_cast<const Lane*>(cell(b.sum, at));
        const Lane* squares = reinterpret_cast<const Lane*>(cell(b.squares, at));
        const std::int64_t into = t.group * outputs.group_stride +
                                  row * plan.tile_rows * outputs.row_stride +
                                  first_lane * outputs.lane_stride;
        Lane* grad = static_cast<Lane*>(outputs.weight_grad) + into;
        Lane* variance = static_cast<Lane*>(outputs.weight_variance) + (squares ? into : 0);
        for (std::int64_t i = 0; i < used_rows(row); ++i) {
          for (std::int64_t l = 0; l < lanes; ++l) {
            const std::int64_t place = i * outputs.row_stride + l * outputs.lane_stride;
            grad[place] = sum[i * across + l];
            if (squares) variance[place] = squares[i * across + l] / degrees;
          }
        }
      }
    }
  }

  void finish(const ProductTask& t, const ProductBuffers& b) const {
    const bool wide = shape.sum_bytes == 8;
    if (plan.splits > 1) wide ? merge<double>(t.slot) : merge<float>(t.slot);
    wide ? write<double>(t, b) : write<float>(t, b);
  }

  // Hands tasks out to workers, whose buffers they use.
  template <class Body>
  void each_task(std::int64_t count, const Body& body) const {
    std::atomic<std::int64_t> next{0};
    parallel_for(workers(), threads, [&](std::int64_t worker) {
      for (std::int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;)
        body(worker, index);
    });
  }

  void add_slots(const double* partials, double* result) const {
    for (std::int64_t i = 0; i < shape.samples; ++i) {
      double total = 0;
      for (std::int64_t slot = 0; slot < slots(); ++slot)
        total += partials[slot * shape.samples + i];
      result[i] = total;
    }
  }

  void run() const {
    const bool second = plan.dots == Dots::kept || plan.dots == Dots::again;
    each_task(tasks(), [&](std::int64_t worker, std::int64_t index) {
      const ProductTask t = task(index);
      const ProductBuffers b = buffers(worker, t);
      accumulate(t, b);
      if (plan.splits > 1) return;
      if (second) multiply(t, b, b.sum);
      finish(t, b);
    });
    if (plan.splits > 1) {
      each_task(slots(), [&](std::int64_t worker, std::int64_t slot) {
        const ProductTask t = task(slot * plan.splits);
        finish(t, buffers(worker, t));
      });
      if (second)
        each_task(tasks(), [&](std::int64_t worker, std::int64_t index) {
          const ProductTask t = task(index);
          multiply(t, buffers(worker, t), state(t.slot, 0));
        });
    }
    if (slots() == 1) return;
    add_slots(norms(0), outputs.sq_norms);
    if (outputs.inner_products) add_slots(products(0), outputs.inner_products);
  }
};

}  // namespace adak::cpu
