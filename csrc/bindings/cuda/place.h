// Where a call to the CUDA kernels runs, as Python hands it over.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <functional>
#include <tuple>

#include "bindings/arguments.h"
#include "kernels_cuda.h"

namespace adak::bindings {

// A call's device, its stream's handle, and what gives it memory.
using Place = std::tuple<int, Address, std::function<Address(std::int64_t)>>;

inline cuda::Stream stream_of(const Place& place) {
  return {std::get<0>(place), pointer(std::get<1>(place))};
}
inline cuda::Allocate allocate_of(const Place& place) {
  return [&give = std::get<2>(place)](std::int64_t bytes) { return pointer(give(bytes)); };
}

}  // namespace adak::bindings
