// Lists of tensors for subjects: sizes are their number, whether an overflow was found, and of each
// its elements and rows; arrays are what was found, and of each param, grad and accumulator.
#pragma once

#include "cuda/tensor_table.cuh"
#include "subject.h"

namespace subject {

// `pieces_of(tensor's elements, rows)`. The arrays of the tensors begin with the second.
template <class Pieces>
TensorTable<float> table_of(void* const* arrays, const long long* sizes, Pieces pieces_of) {
  TensorTable<float> table{};
  table.count = static_cast<int>(sizes[0]);
  for (int t = 0; t < table.count; ++t) {
    table.params[t] = array<float>(arrays, 3 * t + 1);
    table.grads[t] = array<float>(arrays, 3 * t + 2);
    table.accumulators[t] = arrays[3 * t + 3];
    table.sizes[t] = sizes[2 * t + 2];
    table.rows[t] = sizes[2 * t + 3];
    table.first_pieces[t + 1] =
        table.first_pieces[t] + static_cast<int>(pieces_of(table.sizes[t], table.rows[t]));
  }
  return table;
}

inline DeviceValues values_of(void* const* arrays, const long long* sizes) {
  return {nullptr, nullptr, sizes[1] != 0 ? array<float>(arrays, 0) : nullptr};
}
inline float grad_scale() { return static_cast<float>(scalars.grad_scale); }
// The arrays behind those of the tensors.
inline int behind(const long long* sizes) { return static_cast<int>(3 * sizes[0] + 1); }

}  // namespace subject
