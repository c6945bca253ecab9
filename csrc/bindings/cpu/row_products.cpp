#include "contracts/row_products.h"

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"
#include "bindings/cpu/workspace.h"

namespace adak::bindings {
namespace {

void row_products(Address one, Address other, int type, std::int64_t rows, std::int64_t columns,
                  Address products, int threads) {
  cpu::RowProductsArgs args{pointer(one), pointer(other), element_type(type),
                            rows,         columns,        pointer<double>(products),
                            nullptr,      threads};
  run(args, &cpu::row_products_workspace, &cpu::row_products);
}

const Binding row_products_binding([](pybind11::module_& m) {
  m.def("row_products", &row_products);
});

}  // namespace
}  // namespace adak::bindings
