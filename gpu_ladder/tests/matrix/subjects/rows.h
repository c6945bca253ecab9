// How subjects cut a matrix whose tiles are not kept.
#pragma once

#include "cuda/strips.cuh"

namespace subject {

using namespace adak::cuda;

class Rows {
 public:
  // sizes: samples, features, row stride, lanes
  Rows(const long long* sizes, long long rows_per_group)
      : sizes_(sizes), rows_per_group_(rows_per_group) {}

  Matrix<float> matrix(const float* grads, double* norms, double* products) const {
    return {grads,   sizes_[0],  sizes_[1],      sizes_[2], rows_per_group_,
            lanes(), most_ahead, most_ahead + 1, norms,     products};
  }
  // With so many floats for the sums of columns.
  std::int64_t shared_bytes(int column_floats) const {
    return column_floats * std::int64_t{4} +
           RowTotals::numbers(static_cast<int>(rows_per_group_), lanes()) * std::int64_t{8} +
           (most_ahead + 1) * strip_bytes;
  }

 private:
  int lanes() const { return static_cast<int>(sizes_[3]); }

  const long long* sizes_;
  long long rows_per_group_;
};

}  // namespace subject
