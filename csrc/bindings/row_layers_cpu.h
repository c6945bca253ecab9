// The ops of layers that reduce to rows: normalisations and embeddings.
#pragma once

#include <pybind11/pybind11.h>

namespace adak::bindings {

void add_row_layers(pybind11::module_& m);

}  // namespace adak::bindings
