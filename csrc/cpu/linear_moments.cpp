// Linear layers: h_i[o, j] = sum_t y_i[t, o] x_i[t, j], from packed panels of both.
#include "cpu/product_run.h"

namespace adak::cpu {
namespace {

// One side of the product: [samples, positions, features], features adjacent.
struct Side {
  const char* data;
  std::int64_t sample_stride;
  std::int64_t position_stride;
  std::int64_t features;
  char* sums;  // [samples, features], sum type: sums over positions; or null
};

struct LinearSource {
  const ProductShape& shape;
  Side rows;
  Side lanes;
  std::int64_t element_size;
  const ProductKernels& kernels;

  // Rows are packed in whole vectors, which hold two low panels or one high one.
  std::int64_t pitch(const ProductPlan& plan) const {
    return ceil_div(plan.tile_rows, plan.width) * plan.width;
  }
  std::int64_t panels_in_one(const ProductPlan& plan) const { return pitch(plan) / plan.tile_rows; }
  std::int64_t packed_cells(const ProductPlan& plan) const {
    return plan.block * shape.positions * pitch(plan);
  }
  std::int64_t rows_cells(const ProductPlan& plan) const {
    return ceil_div(plan.group_row_panels(), panels_in_one(plan)) * packed_cells(plan);
  }

  void begin(const ProductTask&, const ProductPlan&, const ProductBuffers&) const {}

  const char* at(const Side& side, std::int64_t sample, std::int64_t feature) const {
    return side.data + (sample * side.sample_stride + feature) * element_size;
  }

  void pack_rows(const ProductTask& t, const ProductPlan& plan, const ProductBuffers& b,
                 std::int64_t sample, std::int64_t samples, bool sums) const {
    const std::int64_t first = t.row_panel * plan.tile_rows;
    const std::int64_t end = t.row_panel_end * plan.tile_rows;
    const std::int64_t features = (end < rows.features ? end : rows.features) - first;
    const bool with_sums = sums && rows.sums && t.lane_panel == 0;
    const std::int64_t size = shape.sum_bytes;
    const std::int64_t across = panels_in_one(plan) * plan.tile_rows;
    for (std::int64_t s = 0; s < samples; ++s) {
      if (with_sums)
        std::memset(b.column_sums, 0, static_cast<std::size_t>((features + packing_slack) * size));
      for (std::int64_t feature = 0; feature < features; feature += across) {
        // Whole vectors where the tensor has them; no tile reads what is too much.
        const std::int64_t rest = rows.features - first - feature;
        const std::int64_t used = features - feature < across ? features - feature : across;
        const std::int64_t columns = with_sums ? used : rest < pitch(plan) ? rest : pitch(plan);
        const std::int64_t into =
            feature / across * packed_cells(plan) + s * shape.positions * pitch(plan);
        kernels.copy_rows({at(rows, sample + s, first + feature), rows.position_stride,
                           shape.positions, columns, b.rows + into * size, pitch(plan),
                           with_sums ? b.column_sums + feature * size : nullptr});
      }
      if (with_sums)
        std::memcpy(rows.sums + ((sample + s) * rows.features + first) * size, b.column_sums,
                    static_cast<std::size_t>(features * size));
    }
  }

  void pack_lanes(const ProductTask& t, const ProductPlan& plan, const ProductBuffers& b,
                  std::int64_t panel, std::int64_t sample, std::int64_t samples, bool sums) const {
    const std::int64_t first = plan.first_vector(panel) * plan.width;
    const std::int64_t across = plan.vectors(panel) * plan.width;
    const std::int64_t left = lanes.features - first;
    const std::int64_t features = left < across ? left : across;
    const bool with_sums = sums && lanes.sums && t.row_panel == 0;
    const std::int64_t size = shape.sum_bytes;
    for (std::int64_t s = 0; s < samples; ++s) {
      if (with_sums) std::memset(b.column_sums, 0, static_cast<std::size_t>(across * size));
      char* into = b.lanes + s * shape.positions * across * size;
      kernels.copy_rows({at(lanes, sample + s, first), lanes.position_stride, shape.positions,
                         features, into, across, with_sums ? b.column_sums : nullptr});
      if (with_sums)
        std::memcpy(lanes.sums + ((sample + s) * lanes.features + first) * size, b.column_sums,
                    static_cast<std::size_t>(features * size));
    }
  }

  // The lane panel that is packed next, one cache line of its rows during each tile.
  void ask(const ProductTask& t, const ProductPlan& plan, ProductTile& tile,
           const ProductPlace& place) const {
    const bool last = place.lane + 1 == t.lane_panel_end;
    const std::int64_t lane = last ? t.lane_panel : place.lane + 1;
    const std::int64_t sample = place.sample + place.skipped + (last ? place.samples : 0);
    constexpr std::int64_t line = 64;
    const std::int64_t at_byte = (place.row - t.row_panel) * line;
    tile.ahead = lanes.data;
    if (sample + place.count > t.sample_end ||
        at_byte >= plan.vectors(lane) * plan.width * element_size)
      return;
    tile.ahead = at(lanes, sample, plan.first_vector(lane) * plan.width) + at_byte;
    tile.ahead_sample = lanes.sample_stride * element_size;
    tile.ahead_step = lanes.position_stride * element_size;
  }

  ProductTile tile(const ProductTask& t, const ProductPlan& plan, const ProductBuffers& b,
                   std::int64_t panel) const {
    const std::int64_t index = panel - t.row_panel;
    const std::int64_t cells = index / panels_in_one(plan) * packed_cells(plan) +
                               index % panels_in_one(plan) * plan.tile_rows;
    ProductTile tile{};
    tile.broadcast = b.rows + cells * shape.sum_bytes;
    tile.broadcast_sample = shape.positions * pitch(plan);
    tile.step = pitch(plan);
    tile.positions = shape.positions;
    return tile;
  }
};

// Outputs are broadcast and inputs are lanes, so that rows of the gradient are written in order.
struct LinearRun {
  ProductShape shape;
  const ProductKernels& kernels;
  ProductPlan plan;
  LinearSource source;
  ProductRun<LinearSource> run;

  explicit LinearRun(const LinearMomentsArgs& args)
      : shape{args.samples,
              args.positions,
              1,
              args.out_features,
              args.in_features,
              true,
              args.positions,
              args.type == ElementType::float64 ? 8 : 4,
              args.weight_variance != nullptr,
              args.inner_products != nullptr},
        kernels(cpu::kernels().products[static_cast<int>(args.type)]),
        plan(shape, kernels),
        source{shape,
               {static_cast<const char*>(args.grad_outputs), args.grad_sample_stride,
                args.grad_position_stride, args.out_features, static_cast<char*>(args.bias_sums)},
               {static_cast<const char*>(args.inputs), args.input_sample_stride,
                args.input_position_stride, args.in_features, nullptr},
               element_bytes(args.type),
               kernels},
        run{source,
            shape,
            plan,
            kernels,
            {args.weight_grad, args.weight_variance, args.sq_norms, args.inner_products, 0,
             args.in_features, 1},
            threads(args),
            static_cast<char*>(args.workspace)} {}

  // Below this many multiplications, waking threads costs more than they save.
  static int threads(const LinearMomentsArgs& args) {
    const std::int64_t products =
        args.samples * args.positions * args.in_features * args.out_features;
    return products < (1 << 20) ? 1 : args.threads;
  }
};

}  // namespace

std::int64_t linear_moments_workspace(const LinearMomentsArgs& args) {
  return LinearRun(args).run.bytes();
}

void linear_moments(const LinearMomentsArgs& args) { LinearRun(args).run.run(); }

}  // namespace adak::cpu
