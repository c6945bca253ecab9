#include "contracts/transpose_positions.h"

#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"

namespace adak::bindings {
namespace {

// Sizes are samples, positions and features; strides those of a sample and of a position.
void transpose_positions(Address values, int type, const std::array<std::int64_t, 3>& sizes,
                         const std::array<std::int64_t, 2>& strides, Address transposed,
                         Address sums, int threads) {
  cpu::transpose_positions({pointer(values), element_type(type), sizes[0], sizes[1], sizes[2],
                            strides[0], strides[1], pointer(transposed), pointer(sums), threads});
}

const Binding transpose_positions_binding([](pybind11::module_& m) {
  m.def("transpose_positions", &transpose_positions,
        pybind11::call_guard<pybind11::gil_scoped_release>());
});

}  // namespace
}  // namespace adak::bindings
