#include "contracts/stream_read.h"

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"

namespace adak::bindings {
namespace {

double stream_read(Address data, std::int64_t bytes, int threads) {
  return cpu::stream_read(pointer(data), bytes, threads);
}

const Binding stream_read_binding([](pybind11::module_& m) {
  m.def("stream_read", &stream_read, pybind11::call_guard<pybind11::gil_scoped_release>());
});

}  // namespace
}  // namespace adak::bindings
