// Included once for every instruction set, inside its namespace, after its vector types: whatever
// these files define exists once per instruction set and nowhere else. They use nothing of the
// standard library, whose inline functions the linker would share between instruction sets.

// Calls body(column) for every full vector of [0, columns) and body(column, lanes) for the rest.
template <class Vec, class Body>
inline void for_each_vector(std::int64_t columns, Body&& body) {
  std::int64_t column = 0;
  for (; column + Vec::width <= columns; column += Vec::width) body(column);
  if (column < columns) body(column, columns - column);
}

// A sum runs in vectors over this many elements and then in double, so that its rounding does not
// grow with the size of the tensor.
template <class Vec>
inline constexpr std::int64_t segment = 64 * Vec::width;

// The sum of what body(index, sum so far) makes of `size` elements.
template <class Vec, class Body>
inline double add_up(std::int64_t size, Body&& body) {
  double total = 0;
  for (std::int64_t start = 0; start < size; start += segment<Vec>) {
    const std::int64_t length = size - start < segment<Vec> ? size - start : segment<Vec>;
    Vec partial = Vec::fill(0);
    for_each_vector<Vec>(length, [&](std::int64_t i, auto... lanes) {
      partial = body(start + i, partial, lanes...);
    });
    total += sum(partial);
  }
  return total;
}

// The vector type in which an element type is summed.
template <class T>
struct SumVec {
  using type = VecFloat;
};
template <>
struct SumVec<double> {
  using type = VecDouble;
};
template <class T>
using VecOf = typename SumVec<T>::type;

// The direction of an AdaGrad step, d = +-grad / grad_scale + weight_decay * param.
template <class Vec>
struct Direction {
  Vec scale;  // of the gradient, with its sign
  Vec weight_decay;

  explicit Direction(const AdagradScalars& s)
      : scale(Vec::fill((s.maximize ? -1.0 : 1.0) / s.grad_scale)),
        weight_decay(Vec::fill(s.weight_decay)) {}
  Vec operator()(Vec grad, Vec param) const { return fma(weight_decay, param, scale * grad); }
};

#include "cpu/ops/adagrad_norm_step.inl"
#include "cpu/ops/adagrad_step.inl"
#include "cpu/ops/batch_moments.inl"
#include "cpu/ops/product_tiles.inl"
#include "cpu/ops/sparse_mean_step.inl"
#include "cpu/ops/stream_read.inl"
#include "cpu/ops/subtract_square.inl"
// After the tiles, whose table it makes.
#include "cpu/ops/product_packing.inl"
// These build on the ones above.
#include "cpu/ops/accumulate_moments.inl"
#include "cpu/ops/norm_layer_moments.inl"
// And this one on that.
#include "cpu/ops/embedding_moments.inl"

// The order of ElementType.
constexpr KernelTable make_table() {
  return {
      .moments = {moments<float>, moments<BFloat16>, moments<Float16>, moments<double>},
      .merge = {merge<float>, merge<BFloat16>, merge<Float16>, merge<double>},
      .finish = {finish<float>, finish<BFloat16>, finish<Float16>, finish<double>},
      .accumulate = {accumulate_columns<float>, accumulate_columns<BFloat16>,
                     accumulate_columns<Float16>, accumulate_columns<double>},
      .adagrad = {adagrad<float>, adagrad<BFloat16>, adagrad<Float16>, adagrad<double>},
      .squares = {squares<float>, squares<BFloat16>, squares<Float16>, squares<double>},
      .scaled_step = {scaled_step<float>, scaled_step<BFloat16>, scaled_step<Float16>,
                      scaled_step<double>},
      .read = stream_read,
      .products = {product_kernels<float>(), product_kernels<BFloat16>(),
                   product_kernels<Float16>(), product_kernels<double>()},
      .subtract_square = {subtract_square<VecFloat>, nullptr, nullptr, subtract_square<VecDouble>},
      .norm_by_position = {norm_rows<float, false>, norm_rows<BFloat16, false>,
                           norm_rows<Float16, false>, norm_rows<double, false>},
      .norm_by_feature = {norm_rows<float, true>, norm_rows<BFloat16, true>,
                          norm_rows<Float16, true>, norm_rows<double, true>},
      .norm_planes = {norm_planes<float>, norm_planes<BFloat16>, norm_planes<Float16>,
                      norm_planes<double>},
      .embedding_run = {embedding_run<float>, embedding_run<BFloat16>, embedding_run<Float16>,
                        embedding_run<double>},
      .sparse_mean_columns = {sparse_mean_columns<float>, sparse_mean_columns<BFloat16>,
                              sparse_mean_columns<Float16>, sparse_mean_columns<double>},
      .sparse_mean_entries = {sparse_mean_entries<float>, sparse_mean_entries<BFloat16>,
                              sparse_mean_entries<Float16>, sparse_mean_entries<double>},
  };
}
