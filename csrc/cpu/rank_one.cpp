// Elementwise ends of the ops on layers whose samples contribute one product each.
#include "cpu/huge_pages.h"
#include "cpu/kernel_table.h"
#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {
namespace {

constexpr std::int64_t chunk = 1 << 15;  // elements

const char* at(const void* data, std::int64_t element, ElementType type) {
  return static_cast<const char*>(data) + element * element_bytes(type);
}

}  // namespace

void row_dots(const RowDotsArgs& args) {
  const RowDots& all = args.rows;
  const std::int64_t rows = all.columns < chunk ? chunk / (all.columns + 1) + 1 : 1;
  const std::int64_t tasks = (all.rows + rows - 1) / rows;
  const auto run = kernels().row_dots[static_cast<int>(args.type)];
  parallel_for(tasks, args.threads, [&](std::int64_t task) {
    const std::int64_t first = task * rows;
    run({at(all.a, first * all.columns, args.type), at(all.b, first * all.columns, args.type),
         least(rows, all.rows - first), all.columns, all.dots + first});
  });
}

void rank_one_variance(const RankOneVarianceArgs& args) {
  const RankOneVariance& all = args.values;
  const std::int64_t tasks = (all.size + chunk - 1) / chunk;
  const auto run = kernels().rank_one_variance[static_cast<int>(args.type)];
  parallel_for(tasks, args.threads, [&](std::int64_t task) {
    const std::int64_t first = task * chunk;
    run({at(all.grad, first, args.type),
         static_cast<char*>(all.squares) + first * element_bytes(args.type),
         least(chunk, all.size - first), all.scale});
  });
}

}  // namespace adak::cpu
