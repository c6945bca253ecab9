// How Python hands over addresses, element types and lists of tensors.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"

namespace adak::bindings {

using Address = std::uintptr_t;

template <class T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline ElementType element_type(int code) {
  if (code < 0 || code >= element_types)
    throw std::invalid_argument("element type code " + std::to_string(code) +
                                " is not one of 0 to 3");
  return static_cast<ElementType>(code);
}

// One tensor of an update: addresses of param, grad and accumulator, elements, rows, element type.
using TensorTuple = std::tuple<Address, Address, Address, std::int64_t, std::int64_t, int>;

// What an update reads and writes, as addresses: whoever holds this holds the tensors too.
struct Update {
  std::vector<UpdatedTensor> tensors;
  double* shared = nullptr;  // AdaGrad-Norm's one accumulator in all
};

inline Update update_of(const std::vector<TensorTuple>& tuples, Address shared) {
  Update update{{}, pointer<double>(shared)};
  update.tensors.reserve(tuples.size());
  for (const auto& [param, grad, accumulator, size, rows, type] : tuples)
    update.tensors.push_back(
        {pointer(param), pointer(grad), pointer(accumulator), size, rows, element_type(type)});
  return update;
}

}  // namespace adak::bindings
