// Every sample's contribution as a row of a matrix, 1 / positions of an activation in size, then
// batch_moments of that matrix; the arithmetic is in ops/norm_layer_moments.inl.
//
// A task is some samples and a tile of features: nothing is shared between tasks, and sums over
// positions do not depend on the cut.
#include "contracts/norm_layer_moments.h"

#include "contracts/batch_moments.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {
namespace {

struct Cut {
  std::int64_t columns;
  std::int64_t tiles;
  std::int64_t block;  // samples
  std::int64_t blocks;

  explicit Cut(const NormLayerMomentsArgs& args) {
    // Few samples: narrower tiles, down to some cache lines, so that there is work for all threads.
    constexpr std::int64_t fewest = 16;
    constexpr std::int64_t narrowest = 64;
    const std::int64_t wanted = (fewest + args.samples - 1) / args.samples;
    columns = least(norm_columns, round_up((args.features + wanted - 1) / wanted, narrowest));
    tiles = (args.features + columns - 1) / columns;
    // Small samples: several to a task.
    constexpr std::int64_t elements = 16 << 10;
    block = most(1, elements / most(1, args.positions * columns));
    blocks = (args.samples + block - 1) / block;
  }
};

// The parts of the workspace, in bytes from its start. A row is [scale, shift] or [scale].
struct Workspace {
  std::int64_t width;     // of a row
  std::int64_t mean;      // [width] sum type
  std::int64_t variance;  // [width] sum type
  std::int64_t rows;      // [samples, width] sum type
  std::int64_t moments;   // workspace of batch_moments
  std::int64_t bytes;

  explicit Workspace(const NormLayerMomentsArgs& args) {
    constexpr std::int64_t alignment = 64;
    width = args.shift_grad ? 2 * args.features : args.features;
    const std::int64_t row = width * sum_bytes(args.type);
    mean = 0;
    variance = round_up(row, alignment);
    rows = 2 * variance;
    moments = rows + round_up(args.samples * row, alignment);
    bytes = moments + batch_moments_workspace(moments_of(args));
  }

  BatchMomentsArgs moments_of(const NormLayerMomentsArgs& args) const {
    char* start = static_cast<char*>(args.workspace);
    // Sizes alone decide the workspace; null stands for what is not measured.
    const auto at = [&](std::int64_t offset) { return start ? start + offset : nullptr; };
    const ElementType type =
        args.type == ElementType::float64 ? ElementType::float64 : ElementType::float32;
    // Without a workspace yet, any address says that a variance is wanted.
    void* spread = start ? at(variance) : args.scale_variance;
    return {at(rows),
            type,
            args.samples,
            width,
            width,
            at(mean),
            args.scale_variance ? spread : nullptr,
            args.sq_norms,
            args.inner_products,
            nullptr,
            nullptr,
            {},
            at(moments),
            args.threads};
  }
};

void contribute(const NormLayerMomentsArgs& args, const Workspace& workspace, const Cut& cut,
                std::int64_t task) {
  const NormLayerLoops& loops = norm_layer_loops();
  const int type = static_cast<int>(args.type);
  const auto kernel = args.positions_adjacent ? loops.planes[type]
                      : args.by_feature       ? loops.by_feature[type]
                                              : loops.by_position[type];
  const std::int64_t size = element_bytes(args.type);
  const std::int64_t sum_size = sum_bytes(args.type);
  const std::int64_t start = task % cut.tiles * cut.columns;
  const std::int64_t first = task / cut.tiles * cut.block;
  const std::int64_t last = least(args.samples, first + cut.block);
  const auto offset = [](const void* from, std::int64_t bytes) {
    return from ? static_cast<const char*>(from) + bytes : nullptr;
  };
  for (std::int64_t sample = first; sample < last; ++sample) {
    const std::int64_t x = sample * args.input_sample_stride +
                           start * (args.positions_adjacent ? args.input_stride : 1);
    const std::int64_t y =
        sample * args.grad_sample_stride + start * (args.positions_adjacent ? args.grad_stride : 1);
    const std::int64_t statistic =
        args.by_feature ? sample * args.features + start : sample * args.positions;
    char* row = static_cast<char*>(args.workspace) + workspace.rows +
                (sample * workspace.width + start) * sum_size;
    kernel({offset(args.inputs, x * size), offset(args.grad_outputs, y * size), args.input_stride,
            args.grad_stride, offset(args.mean, statistic * sum_size),
            offset(args.rstd, statistic * sum_size), args.positions,
            least(cut.columns, args.features - start), row,
            args.shift_grad ? row + args.features * sum_size : nullptr});
  }
}

// Gradients are sums of the rows, in double: a mean by pooling times the samples would be as far
// off as the rounding of all its updates. Then the variances, and products with the sum.
template <class Number>
void give(const NormLayerMomentsArgs& args, const Workspace& workspace, int threads) {
  const char* start = static_cast<const char*>(args.workspace);
  const Number* rows = reinterpret_cast<const Number*>(start + workspace.rows);
  const Number* variance = reinterpret_cast<const Number*>(start + workspace.variance);
  const auto place = [&](void* scale, void* shift, std::int64_t column) {
    return column < args.features ? static_cast<Number*>(scale) + column
                                  : static_cast<Number*>(shift) + column - args.features;
  };
  constexpr std::int64_t tile = 256;
  parallel_for((workspace.width + tile - 1) / tile, threads, [&](std::int64_t index) {
    const std::int64_t first = index * tile;
    const std::int64_t columns = least(tile, workspace.width - first);
    double sums[tile] = {};
    for (std::int64_t sample = 0; sample < args.samples; ++sample) {
      const Number* row = rows + sample * workspace.width + first;
      for (std::int64_t i = 0; i < columns; ++i) sums[i] += static_cast<double>(row[i]);
    }
    for (std::int64_t i = 0; i < columns; ++i) {
      *place(args.scale_grad, args.shift_grad, first + i) = static_cast<Number>(sums[i]);
      if (args.scale_variance)
        *place(args.scale_variance, args.shift_variance, first + i) = variance[first + i];
    }
  });
  for (std::int64_t i = 0; args.inner_products && i < args.samples; ++i)
    args.inner_products[i] *= static_cast<double>(args.samples);
}

// Below this many bytes of inputs, waking threads costs more than they save.
constexpr std::int64_t serial_bytes = 64 << 10;

}  // namespace

std::int64_t norm_layer_moments_workspace(const NormLayerMomentsArgs& args) {
  return Workspace(args).bytes;
}

void norm_layer_moments(const NormLayerMomentsArgs& args) {
  const Workspace workspace(args);
  const std::int64_t elements = args.samples * args.positions * args.features;
  const int threads = elements * element_bytes(args.type) < serial_bytes ? 1 : args.threads;
  if (args.positions == 0) {
    char* rows = static_cast<char*>(args.workspace) + workspace.rows;
    for (std::int64_t i = 0; i < workspace.moments - workspace.rows; ++i) rows[i] = 0;
  } else {
    const Cut cut(args);
    parallel_for(cut.blocks * cut.tiles, threads,
                 [&](std::int64_t task) { contribute(args, workspace, cut, task); });
  }
  batch_moments(workspace.moments_of(args));
  if (args.type == ElementType::float64) {
    give<double>(args, workspace, threads);
  } else {
    give<float>(args, workspace, threads);
  }
}

}  // namespace adak::cpu
