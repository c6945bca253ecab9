#include "contracts/subtract_square.h"

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"

namespace adak::bindings {
namespace {

void subtract_square(Address grad, Address squares, int type, std::int64_t size, double scale,
                     int threads) {
  cpu::subtract_square(
      {{pointer(grad), pointer(squares), size, scale}, element_type(type), threads});
}

const Binding subtract_square_binding([](pybind11::module_& m) {
  m.def("subtract_square", &subtract_square, pybind11::call_guard<pybind11::gil_scoped_release>());
});

}  // namespace
}  // namespace adak::bindings
