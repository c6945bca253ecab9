// The layers that multiply, for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace adak::bindings {

void add_conv_moments(pybind11::module_& m);

}  // namespace adak::bindings
