#include "contracts/accumulate_moments.h"

#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"
#include "bindings/cpu/workspace.h"

namespace adak::bindings {
namespace {

// Sizes are rows, features, the row stride and the rows before; outputs sum, squares and norms.
void accumulate_moments(Address chunk, int type, const std::array<std::int64_t, 4>& sizes,
                        const std::array<Address, 3>& outputs, int threads) {
  cpu::AccumulateMomentsArgs args{pointer(chunk),
                                  element_type(type),
                                  sizes[0],
                                  sizes[1],
                                  sizes[2],
                                  sizes[3],
                                  pointer(outputs[0]),
                                  pointer(outputs[1]),
                                  pointer<double>(outputs[2]),
                                  nullptr,
                                  threads};
  run(args, &cpu::accumulate_moments_workspace, &cpu::accumulate_moments);
}

const Binding accumulate_moments_binding([](pybind11::module_& m) {
  m.def("accumulate_moments", &accumulate_moments);
});

}  // namespace
}  // namespace adak::bindings
