// The step along the aggregate of sparse gradients.
#pragma once

#include <pybind11/pybind11.h>

namespace adak::bindings {

void add_sparse_mean(pybind11::module_& m);

}  // namespace adak::bindings
