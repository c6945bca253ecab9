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

inline std::vector<UpdatedTensor> tensors_of(const std::vector<TensorTuple>& tuples) {
  std::vector<UpdatedTensor> tensors;
  tensors.reserve(tuples.size());
  for (const auto& [param, grad, accumulator, size, rows, type] : tuples)
    tensors.push_back(
        {pointer(param), pointer(grad), pointer(accumulator), size, rows, element_type(type)});
  return tensors;
}

// Whether the double at `shared` lies in the memory of a parameter or gradient.
inline bool overlaps(const UpdatedTensor& tensor, Address shared) {
  const auto bytes = static_cast<Address>(tensor.size * element_bytes(tensor.type));
  const auto within = [&](const void* start) {
    const auto begin = reinterpret_cast<Address>(start);
    return begin < shared + sizeof(double) && shared < begin + bytes;
  };
  return within(tensor.param) || within(tensor.grad);
}

}  // namespace adak::bindings
