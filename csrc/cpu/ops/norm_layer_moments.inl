// h_f = (sum_t y_tf (x_tf - mean) rstd, sum_t y_tf) of one sample: the rows that batch_moments
// reads.
//
// Inputs and output gradients are read once, and features written once for all positions. With
// adjacent features, positions are taken in groups, because each group loads and stores the sums
// of all features once. Sums run in the sum type over at most `norm_segment` positions, whose sums
// are added up afterwards, so that rounding hardly grows with the positions. With adjacent
// positions a feature is a sum over vectors, in segments that are added up in double.
#pragma once

#include "cpu/ops/batch_moments.inl"

namespace {

inline constexpr std::int64_t norm_segment = 256;

// One sample's sums of `columns` features over R more positions.
template <int R, bool begins, bool by_feature, class T, class Vec = VecOf<T>>
inline void norm_positions(const NormRows& row, std::int64_t position, typename Vec::Lane* scale,
                           typename Vec::Lane* shift) {
  using Lane = typename Vec::Lane;
  const T* x = static_cast<const T*>(row.inputs) + position * row.input_stride;
  const T* y = static_cast<const T*>(row.grad_outputs) + position * row.grad_stride;
  const Lane* mean = static_cast<const Lane*>(row.mean);
  Vec center[R];
  Vec factor[R];
  if constexpr (!by_feature) {
    const Lane* rstd = static_cast<const Lane*>(row.rstd);
    for (int k = 0; k < R; ++k) {
      center[k] = Vec::fill(mean ? mean[position + k] : 0);
      factor[k] = Vec::fill(rstd[position + k]);
    }
  }
  for_each_vector<Vec>(row.columns, [&](std::int64_t j, auto... lanes) {
    Vec scales;
    Vec shifts;
    if constexpr (begins) {
      scales = Vec::fill(0);
      shifts = Vec::fill(0);
    } else {
      scales = Vec::load(scale + j, lanes...);
      if (shift) shifts = Vec::load(shift + j, lanes...);
    }
    Vec grads[R];
    Vec terms[R];
    for (int k = 0; k < R; ++k) {
      grads[k] = Vec::load(y + k * row.grad_stride + j, lanes...);
      const Vec value = Vec::load(x + k * row.input_stride + j, lanes...);
      if constexpr (by_feature) {
        terms[k] = grads[k] * (mean ? value - Vec::load(mean + j, lanes...) : value);
      } else {
        terms[k] = grads[k] * ((value - center[k]) * factor[k]);
      }
    }
    (scales + total<R>(terms)).store(scale + j, lanes...);
    if (shift) (shifts + total<R>(grads)).store(shift + j, lanes...);
  });
}

// The sums over positions [from, to), into scale and shift.
template <bool by_feature, class T, class Lane>
inline void norm_part(const NormRows& row, std::int64_t from, std::int64_t to, Lane* scale,
                      Lane* shift) {
  constexpr int R = 4;
  std::int64_t t = from;
  if (to - t >= R) {
    norm_positions<R, true, by_feature, T>(row, t, scale, shift);
    t += R;
  } else {
    norm_positions<1, true, by_feature, T>(row, t, scale, shift);
    t += 1;
  }
  for (; t + R <= to; t += R) norm_positions<R, false, by_feature, T>(row, t, scale, shift);
  for (; t < to; ++t) norm_positions<1, false, by_feature, T>(row, t, scale, shift);
}

template <class Vec, class Lane>
inline void add_rows(Lane* into, const Lane* from, std::int64_t columns) {
  for_each_vector<Vec>(columns, [&](std::int64_t j, auto... lanes) {
    (Vec::load(into + j, lanes...) + Vec::load(from + j, lanes...)).store(into + j, lanes...);
  });
}

// Features are adjacent; mean and rstd are one for each position, or one for each feature.
template <class T, bool by_feature>
void norm_rows(const NormRows& row) {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;
  Lane* scale = static_cast<Lane*>(row.scale);
  Lane* shift = static_cast<Lane*>(row.shift);
  alignas(64) Lane part[2][norm_columns];
  for (std::int64_t from = 0; from < row.positions; from += norm_segment) {
    const std::int64_t to =
        row.positions - from < norm_segment ? row.positions : from + norm_segment;
    if (from == 0) {
      norm_part<by_feature, T>(row, from, to, scale, shift);
    } else {
      norm_part<by_feature, T>(row, from, to, part[0], shift ? part[1] : nullptr);
      add_rows<Vec>(scale, part[0], row.columns);
      if (shift) add_rows<Vec>(shift, part[1], row.columns);
    }
  }
  if constexpr (by_feature) {
    const Lane* rstd = static_cast<const Lane*>(row.rstd);
    for_each_vector<Vec>(row.columns, [&](std::int64_t j, auto... lanes) {
      (Vec::load(scale + j, lanes...) * Vec::load(rstd + j, lanes...)).store(scale + j, lanes...);
    });
  }
}

// Positions are adjacent, strides lie between features; mean and rstd are one for each feature.
template <class T>
void norm_planes(const NormRows& row) {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;
  Lane* scale = static_cast<Lane*>(row.scale);
  Lane* shift = static_cast<Lane*>(row.shift);
  const Lane* mean = static_cast<const Lane*>(row.mean);
  const Lane* rstd = static_cast<const Lane*>(row.rstd);
  for (std::int64_t f = 0; f < row.columns; ++f) {
    const T* x = static_cast<const T*>(row.inputs) + f * row.input_stride;
    const T* y = static_cast<const T*>(row.grad_outputs) + f * row.grad_stride;
    const Vec center = Vec::fill(mean ? mean[f] : 0);
    double terms = 0;
    double grads = 0;
    for (std::int64_t start = 0; start < row.positions; start += segment<Vec>) {
      const std::int64_t rest = row.positions - start;
      const std::int64_t length = rest < segment<Vec> ? rest : segment<Vec>;
      Vec scales[2] = {Vec::fill(0), Vec::fill(0)};
      Vec shifts[2] = {Vec::fill(0), Vec::fill(0)};
      const auto add = [&](int k, std::int64_t j, auto... lanes) {
        const Vec grad = Vec::load(y + j, lanes...);
        scales[k] = fma(grad, Vec::load(x + j, lanes...) - center, scales[k]);
        shifts[k] = shifts[k] + grad;
      };
      std::int64_t j = start;
      for (; j + 2 * Vec::width <= start + length; j += 2 * Vec::width) {
        add(0, j);
        add(1, j + Vec::width);
      }
      for_each_vector<Vec>(start + length - j,
                           [&](std::int64_t i, auto... lanes) { add(0, j + i, lanes...); });
      terms += sum(scales[0] + scales[1]);
      if (shift) grads += sum(shifts[0] + shifts[1]);
    }
    scale[f] = static_cast<Lane>(terms * rstd[f]);
    if (shift) shift[f] = static_cast<Lane>(grads);
  }
}

}  // namespace

constexpr NormLayerLoops norm_layer_loops = {
    .by_position = {norm_rows<float, false>, norm_rows<BFloat16, false>, norm_rows<Float16, false>,
                    norm_rows<double, false>},
    .by_feature = {norm_rows<float, true>, norm_rows<BFloat16, true>, norm_rows<Float16, true>,
                   norm_rows<double, true>},
    .planes = {norm_planes<float>, norm_planes<BFloat16>, norm_planes<Float16>,
               norm_planes<double>},
};
