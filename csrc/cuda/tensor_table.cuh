// Many tensors in one launch: their addresses travel as an argument of the kernel, which needs no
// copy to the device and can be captured in a graph.
#pragma once

#include "cuda/device.cuh"

namespace adak::cuda {

inline constexpr int update_threads = 256;

// Work is cut into pieces, numbered through all tensors of the table.
template <class T>
struct TensorTable {
  // 4 KiB of arguments are what every driver takes.
  static constexpr int capacity = 90;

  T* params[capacity];
  const T* grads[capacity];
  void* accumulators[capacity];
  std::int64_t sizes[capacity];
  std::int64_t rows[capacity];
  int first_pieces[capacity + 1];
  int count;

  __device__ int pieces() const { return first_pieces[count]; }
  // The tensor that a piece belongs to: the last one that does not begin after it. Tensors without
  // pieces are not in the table.
  __device__ int tensor_of(int piece) const {
    int low = 0;
    int high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first_pieces[middle] <= piece)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

// Scalars of one launch; those with an address are read on the device.
struct DeviceValues {
  const double* lr;
  const double* grad_scale;
  const float* found_inf;

  __device__ float rate(float host) const { return lr ? static_cast<float>(*lr) : host; }
  __device__ float scale(float host) const {
    return grad_scale ? static_cast<float>(*grad_scale) : host;
  }
  __device__ bool skips() const { return found_inf && *found_inf != 0.0f; }
};

// grad / scale; a scale of one, the usual one, costs no division.
template <class T>
__device__ inline void unscale(const Chunk<T>& grads, float scale, float (&out)[Chunk<T>::size]) {
#pragma unroll
  for (int k = 0; k < Chunk<T>::size; ++k) {
    const float grad = to_float(grads.elements[k]);
    out[k] = scale == 1.0f ? grad : grad / scale;
  }
}

}  // namespace adak::cuda
