// Convolutions: h_i[o, j] = sum_t y_i[o, t] x_i[j, t], where j is a channel and an element of the
// kernel, and x_i[j, t] the place of a padded image that the two see at position t.
//
// The patches of the image are never written: a tile broadcasts from a padded copy of the image,
// through one offset for each j and one for each position.
#include "contracts/conv_moments.h"

#include "cpu/product_run.h"

namespace adak::cpu {
namespace {

struct ConvSource {
  const ConvMomentsArgs& args;
  const ProductShape& shape;
  const ProductKernels& kernels;
  std::int64_t padded[3];
  std::int64_t channels;      // of a group
  std::int64_t out_channels;  // likewise
  std::int64_t kernel_size;
  std::int64_t channel_cells;  // of a padded channel
  std::int64_t element_size;
  std::int64_t* row_offsets;       // [rows, rounded up to tiles]
  std::int64_t* position_offsets;  // [positions]

  bool has_padding() const { return args.padding[0] + args.padding[1] + args.padding[2] > 0; }

  // The places of channel c's kernel elements, relative to the image.
  void fill_offsets(const ProductPlan& plan) const {
    std::int64_t j = 0;
    const std::int64_t* k = args.kernel;
    const std::int64_t* d = args.dilation;
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t z = 0; z < k[0]; ++z)
        for (std::int64_t y = 0; y < k[1]; ++y)
          for (std::int64_t x = 0; x < k[2]; ++x)
            row_offsets[j++] =
                c * channel_cells + (z * d[0] * padded[1] + y * d[1]) * padded[2] + x * d[2];
    // Rows that fill up the last tile read what the last one reads; they are not stored.
    for (; j < plan.row_panels * plan.tile_rows; ++j) row_offsets[j] = j ? row_offsets[j - 1] : 0;
    std::int64_t t = 0;
    for (std::int64_t z = 0; z < args.out_size[0]; ++z)
      for (std::int64_t y = 0; y < args.out_size[1]; ++y)
        for (std::int64_t x = 0; x < args.out_size[2]; ++x)
          position_offsets[t++] =
              (z * args.stride[0] * padded[1] + y * args.stride[1]) * padded[2] +
              x * args.stride[2];
  }

  // The channels that a task's rows see.
  std::int64_t first_channel(const ProductTask& t, const ProductPlan& plan) const {
    return t.row_panel * plan.tile_rows / kernel_size;
  }
  std::int64_t end_channel(const ProductTask& t, const ProductPlan& plan) const {
    const std::int64_t rows = t.row_panel_end * plan.tile_rows;
    const std::int64_t last = ceil_div(rows < shape.rows ? rows : shape.rows, kernel_size);
    return last < channels ? last : channels;
  }
  std::int64_t image_cells(const ProductPlan& plan) const {
    const std::int64_t rows = plan.group_row_panels() * plan.tile_rows;
    const std::int64_t seen = ceil_div(rows, kernel_size) + 1;
    return (seen < channels ? seen : channels) * channel_cells;
  }
  std::int64_t rows_cells(const ProductPlan& plan) const {
    return plan.block * image_cells(plan) + packing_slack;
  }

  // Borders stay zero while images come and go in the same places.
  void begin(const ProductTask&, const ProductPlan& plan, const ProductBuffers& b) const {
    if (has_padding())
      std::memset(b.rows, 0, static_cast<std::size_t>(rows_cells(plan) * shape.sum_bytes));
  }

  void pack_rows(const ProductTask& t, const ProductPlan& plan, const ProductBuffers& b,
                 std::int64_t sample, std::int64_t samples, bool) const {
    const std::int64_t begin = first_channel(t, plan), end = end_channel(t, plan);
    const std::int64_t* p = args.padding;
    const std::int64_t* strides = args.input_stride;
    for (std::int64_t s = 0; s < samples; ++s) {
      for (std::int64_t c = begin; c < end; ++c) {
        for (std::int64_t z = 0; z < args.in_size[0]; ++z) {
          const std::int64_t from =
              (sample + s) * strides[0] + (t.group * channels + c) * strides[1] + z * strides[2];
          const std::int64_t into = s * image_cells(plan) + (c - begin) * channel_cells +
                                    ((z + p[0]) * padded[1] + p[1]) * padded[2] + p[2];
          const ProductRows rows{static_cast<const char*>(args.inputs) + from * element_size,
                                 strides[3],
                                 args.in_size[1],
                                 args.in_size[2],
                                 b.rows + into * shape.sum_bytes,
                                 padded[2],
                                 nullptr};
          if (strides[4] == 1 || args.in_size[2] == 1) {
            kernels.copy_rows(rows);
          } else {
            kernels.gather_rows({rows, strides[4]});
          }
        }
      }
    }
  }

  void pack_lanes(const ProductTask& t, const ProductPlan& plan, const ProductBuffers& b,
                  std::int64_t panel, std::int64_t sample, std::int64_t samples, bool sums) const {
    const std::int64_t first = plan.first_vector(panel) * plan.width;
    const std::int64_t across = plan.vectors(panel) * plan.width;
    const std::int64_t left = out_channels - first;
    const std::int64_t columns = left < across ? left : across;
    const bool with_sums = sums && args.bias_sums && t.row_panel == 0;
    const std::int64_t size = shape.sum_bytes;
    const std::int64_t* strides = args.grad_stride;
    const std::int64_t* out = args.out_size;
    // Positions that lie evenly apart are one run.
    const bool even = (out[1] == 1 || strides[3] == out[2] * strides[4]) &&
                      (out[0] == 1 || strides[2] == out[1] * out[2] * strides[4]);
    const std::int64_t length = even ? shape.positions : out[2];
    for (std::int64_t s = 0; s < samples; ++s) {
      if (with_sums) std::memset(b.column_sums, 0, static_cast<std::size_t>(across * size));
      for (std::int64_t position = 0; position < shape.positions; position += length) {
        const std::int64_t run = position / out[2];
        const std::int64_t from =
            (sample + s) * strides[0] + (t.group * out_channels + first) * strides[1] +
            (even ? 0 : run / out[1] * strides[2] + run % out[1] * strides[3]);
        const ProductRows rows{static_cast<const char*>(args.grad_outputs) + from * element_size,
                               strides[4],
                               length,
                               columns,
                               b.lanes + (s * shape.positions + position) * across * size,
                               across,
                               with_sums ? b.column_sums : nullptr};
        if (strides[1] == 1 || columns == 1) {
          kernels.copy_rows(rows);
        } else {
          kernels.gather_rows({rows, strides[1]});
        }
      }
      if (with_sums) {
        char* into = static_cast<char*>(args.bias_sums) +
                     ((sample + s) * args.out_channels + t.group * out_channels + first) * size;
        std::memcpy(into, b.column_sums, static_cast<std::size_t>(columns * size));
      }
    }
  }

  // The tensors of the next block, line by line, where their samples are dense.
  void ask(const ProductTask& t, const ProductPlan&, ProductTile& tile,
           const ProductPlace& place) const {
    constexpr std::int64_t line = 64;
    tile.ahead = static_cast<const char*>(args.grad_outputs);
    const std::int64_t next = place.sample + place.samples;
    const std::int64_t left = t.sample_end - next;
    const std::int64_t samples = left < place.samples ? left : place.samples;
    std::int64_t done = place.positions * line;
    if (place.lane != t.lane_panel || samples <= 0) return;
    for (int side = 0; side < 2; ++side) {
      const std::int64_t stride = (side ? args.input_stride : args.grad_stride)[0] * element_size;
      const std::int64_t bytes = samples * stride;
      if (done < bytes) {
        const void* data = side ? args.inputs : args.grad_outputs;
        tile.ahead = static_cast<const char*>(data) + next * stride + done;
        tile.ahead_sample = shape.positions * line;
        tile.ahead_step = line;
        return;
      }
      done -= bytes;
    }
  }

  ProductTile tile(const ProductTask& t, const ProductPlan& plan, const ProductBuffers& b,
                   std::int64_t panel) const {
    ProductTile tile{};
    tile.broadcast = b.rows - first_channel(t, plan) * channel_cells * shape.sum_bytes;
    tile.broadcast_sample = image_cells(plan);
    tile.row_offsets = row_offsets + panel * plan.tile_rows;
    tile.position_offsets = position_offsets;
    tile.positions = shape.positions;
    return tile;
  }
};

struct ConvRun {
  std::int64_t padded[3];
  ProductShape shape;
  const ProductKernels& kernels;
  ProductPlan plan;
  ConvSource source;
  ProductRun<ConvSource> run;

  static std::int64_t product(const std::int64_t* sizes) { return sizes[0] * sizes[1] * sizes[2]; }
  static std::int64_t padded_size(const ConvMomentsArgs& args, int i) {
    return args.in_size[i] + 2 * args.padding[i];
  }
  std::int64_t offsets_bytes() const {
    return ceil_div((plan.row_panels * plan.tile_rows + shape.positions) * 8, 64) * 64;
  }

  explicit ConvRun(const ConvMomentsArgs& args)
      : padded{padded_size(args, 0), padded_size(args, 1), padded_size(args, 2)},
        shape{args.samples,
              product(args.out_size),
              args.groups,
              args.in_channels / args.groups * product(args.kernel),
              args.out_channels / args.groups,
              ceil_div(product(padded), product(args.kernel)),
              args.type == ElementType::float64 ? 8 : 4,
              args.weight_variance != nullptr,
              args.inner_products != nullptr},
        kernels(conv_loops().products[static_cast<int>(args.type)]),
        plan(shape, kernels),
        source{args,
               shape,
               kernels,
               {padded[0], padded[1], padded[2]},
               args.in_channels / args.groups,
               args.out_channels / args.groups,
               product(args.kernel),
               product(padded),
               element_bytes(args.type),
               static_cast<std::int64_t*>(args.workspace),
               static_cast<std::int64_t*>(args.workspace) + plan.row_panels * plan.tile_rows},
        run{source,
            shape,
            plan,
            kernels,
            {args.weight_grad, args.weight_variance, args.sq_norms, args.inner_products,
             shape.rows * shape.lanes, 1, shape.rows},
            threads(args),
            static_cast<char*>(args.workspace) + offsets_bytes()} {}

  // Below this many multiplications, waking threads costs more than they save.
  int threads(const ConvMomentsArgs& args) const {
    const std::int64_t products =
        shape.samples * shape.positions * shape.groups * shape.rows * shape.lanes;
    return products < (1 << 20) ? 1 : args.threads;
  }
};

}  // namespace

std::int64_t conv_moments_workspace(const ConvMomentsArgs& args) {
  const ConvRun run(args);
  return run.offsets_bytes() + run.run.bytes();
}

void conv_moments(const ConvMomentsArgs& args) {
  const ConvRun run(args);
  run.source.fill_offsets(run.plan);
  run.run.run();
}

}  // namespace adak::cpu
