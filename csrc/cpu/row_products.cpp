// A task is a part of a row, and the parts are added in their order: no number of threads changes a
// bit. The arithmetic is in ops/row_products.inl.
#include "contracts/row_products.h"

#include "cpu/parallel.h"
#include "cpu/sizes.h"

namespace adak::cpu {
namespace {

constexpr std::int64_t part_elements = 1 << 15;

}  // namespace

std::int64_t row_products_workspace(const RowProductsArgs& args) {
  return args.rows * ceil_div(args.columns, part_elements) *
         static_cast<std::int64_t>(sizeof(double));
}

void row_products(const RowProductsArgs& args) {
  const std::int64_t parts = ceil_div(args.columns, part_elements);
  const std::int64_t bytes = element_bytes(args.type);
  const auto run = row_products_loops().run[static_cast<int>(args.type)];
  double* const found = static_cast<double*>(args.workspace);
  parallel_for(args.rows * parts, args.threads, [&](std::int64_t task) {
    const std::int64_t column = task % parts * part_elements;
    const std::int64_t offset = (task / parts * args.columns + column) * bytes;
    found[task] = run(static_cast<const char*>(args.one) + offset,
                      static_cast<const char*>(args.other) + offset,
                      least(part_elements, args.columns - column));
  });
  for (std::int64_t row = 0; row < args.rows; ++row) {
    args.products[row] = 0;
    for (std::int64_t part = 0; part < parts; ++part)
      args.products[row] += found[row * parts + part];
  }
}

}  // namespace adak::cpu
