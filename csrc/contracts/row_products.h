// Inner products of the rows of two matrices.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// products[i] = <one[i], other[i]>, rows adjacent in both.
struct RowProductsArgs {
  const void* one;    // [rows, columns]
  const void* other;  // [rows, columns]
  ElementType type;
  std::int64_t rows;
  std::int64_t columns;
  double* products;  // [rows]
  void* workspace;   // row_products_workspace() bytes
  int threads;
};
std::int64_t row_products_workspace(const RowProductsArgs& args);
void row_products(const RowProductsArgs& args);

// What an instruction set provides: the product of a part of a row.
struct RowProductsLoops {
  double (*run[element_types])(const void* one, const void* other, std::int64_t size);
};
ADAK_LOOPS(RowProductsLoops, row_products_loops)

}  // namespace cpu
}  // namespace adak
