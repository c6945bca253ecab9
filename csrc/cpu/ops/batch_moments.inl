// mean_j = (1/b) sum_i g_ij, squares_j = sum_i (g_ij - mean_j)^2, s_i = |g_i|^2, p_i = <g_i, mean>.
//
// One read of G gives all but p, which needs the mean first: a block small enough to stay in cache
// is swept a second time. Deviations come from one sweep by pooling groups of rows (Chan, Golub,
// LeVeque 1983): with n rows pooled so far, of sum S, and r more of sum R whose deviations from
// their mean have squares q,
//     squares += q + (R / r - S / n)^2 n r / (n + r),    S += R.
// All of it relative to a `shift`, the first group's mean where that is far from zero, so that
// rounding is relative to the spread of the gradients and not to their size. Near zero there is
// none: S is then as small as a sum of gradients whose mean is small, and its rounding with it.
//
// Rows are taken in groups of four (eight where there are 32 registers), because each group loads
// and stores the column sums once. A column's sums run over at most `moments_stretch` rows,
// whose results are added up, so that rounding hardly grows with the rows. Norms add up in vectors
// over at most `segment` columns, then in double.
#pragma once

#include "cpu/ops/adagrad_rule.inl"

namespace {

template <class Vec>
inline constexpr int group_rows = Vec::registers >= 32 ? 8 : 4;

template <class Vec>
inline constexpr std::int64_t moments_stretch = 32 * group_rows<Vec>;

// Adds up R values pairwise, so that the additions do not wait for one another.
template <int R, class Vec>
inline Vec total(const Vec* values) {
  if constexpr (R == 1) {
    return values[0];
  } else {
    return total<R / 2>(values) + total<R - R / 2>(values + R / 2);
  }
}

// Rows that a later sweep reads. The two sweeps ask memory for them, half each, so that it is not
// idle while the second works on what is in cache. `Nothing` asks for nothing.
template <class T>
struct Ahead {
  const T* grads;
  std::int64_t row_stride;
  template <int rows>
  void fetch(std::int64_t column) const {
    for (int row = 0; row < rows; ++row)
      __builtin_prefetch(grads + row * row_stride + column, 0, 3);
  }
};
struct Nothing {
  template <int rows>
  void fetch(std::int64_t) const {}
};

// A cache line of T at a time: asks for the line ahead, then calls body for each of its vectors.
template <int rows_ahead, class T, class Later, class Body>
inline void for_each_line(std::int64_t columns, const Later& later, Body&& body) {
  using Vec = VecOf<T>;
  constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));
  std::int64_t column = 0;
  for (; column + line <= columns; column += line) {
    later.template fetch<rows_ahead>(column);
    for (std::int64_t j = 0; j < line; j += Vec::width) body(column + j);
  }
  for_each_vector<Vec>(columns - column,
                       [&](std::int64_t j, auto... lanes) { body(column + j, lanes...); });
}

// The sums of a block's columns so far, relative to the shift where there is one.
template <class Lane>
struct Sums {
  Lane* sum;      // of this stretch
  Lane* squares;  // of this stretch, or null
  Lane* shift;    // or null
  Lane* total;    // of the stretches before
  Lane* total_squares;

  Sums from(std::int64_t column) const {
    const auto at = [&](Lane* row) { return row ? row + column : nullptr; };
    return {at(sum), at(squares), at(shift), at(total), at(total_squares)};
  }
};

// Pools `more` rows with the `before` rows before them.
template <class Vec>
struct Pooling {
  Vec share;  // -1 / before
  Vec more_share;
  Vec pooled;

  Pooling(std::int64_t before, std::int64_t more) {
    const double n = static_cast<double>(before);
    const double r = static_cast<double>(more);
    share = Vec::fill(before > 0 ? -1 / n : 0);
    more_share = Vec::fill(1 / r);
    pooled = Vec::fill(n * r / (n + r));
  }
  Vec squares(Vec sum, Vec squares_before, Vec more_sum, Vec more_squares) const {
    const Vec delta = fma(sum, share, more_sum * more_share);
    return fma(delta * delta, pooled, squares_before + more_squares);
  }
};

// Takes the sums of a stretch at column j over to those of the stretches before it.
template <bool with_squares, class Vec, class... Lanes>
inline void end_stretch(const Sums<typename Vec::Lane>& sums, bool first,
                        const Pooling<Vec>& pooling, std::int64_t j, Lanes... lanes) {
  const Vec zero = Vec::fill(0);
  const Vec sum = Vec::load(sums.sum + j, lanes...);
  const Vec total = first ? zero : Vec::load(sums.total + j, lanes...);
  if constexpr (with_squares) {
    const Vec before = first ? zero : Vec::load(sums.total_squares + j, lanes...);
    pooling.squares(total, before, sum, Vec::load(sums.squares + j, lanes...))
        .store(sums.total_squares + j, lanes...);
  }
  (total + sum).store(sums.total + j, lanes...);
}

template <int R, class Vec>
inline Vec squares_about(const Vec* rows, Vec center) {
  const Vec first = rows[0] - center;
  Vec squares = first * first;
  for (int k = 1; k < R; ++k) {
    const Vec away = rows[k] - center;
    squares = fma(away, away, squares);
  }
  return squares;
}

// Where a group of rows stands in its block.
enum class Place { first, first_of_stretch, within_stretch };

// Pools the columns [0, columns) of R rows, the stretch of which begins at row `begin`; norms add
// up in vectors, which is why there are at most `segment` columns.
template <int R, Place place, bool with_squares, class T, class Later, class Vec = VecOf<T>>
inline void pool_rows(const T* grads, std::int64_t row_stride, std::int64_t columns,
                      Sums<typename Vec::Lane> sums, std::int64_t begin, std::int64_t row,
                      double* sq_norms, const Later& later) {
  const Pooling<Vec> of_group(row - begin, R);
  const Pooling<Vec> of_stretch(begin - moments_stretch<Vec>, moments_stretch<Vec>);
  const Vec group_size = Vec::fill(R);
  const Vec inverse = Vec::fill(1.0 / R);
  const Vec far = Vec::fill(36.0 / R);  // six standard deviations, squared
  Vec norms[R];
  for (int k = 0; k < R; ++k) norms[k] = Vec::fill(0);
  // Called, the body would keep its vectors in memory.
  const auto body = [&](std::int64_t j, auto... lanes) __attribute__((always_inline)) {
    Vec rows[R];
    for (int k = 0; k < R; ++k) {
      rows[k] = Vec::load(grads + k * row_stride + j, lanes...);
      norms[k] = fma(rows[k], rows[k], norms[k]);
    }
    if constexpr (place == Place::first_of_stretch)
      end_stretch<with_squares>(sums, begin == moments_stretch<Vec>, of_stretch, j, lanes...);
    Vec origin;
    if constexpr (with_squares) {
      origin =
          place == Place::first ? total<R>(rows) * inverse : Vec::load(sums.shift + j, lanes...);
      for (int k = 0; k < R; ++k) rows[k] = rows[k] - origin;
    }
    Vec sum = total<R>(rows);
    Vec spread;
    if constexpr (with_squares && place == Place::first) {
      spread = squares_about<R>(rows, Vec::fill(0));
      const Vec shift = where_greater(origin * origin, spread * far, origin);
      shift.store(sums.shift + j, lanes...);
      sum = fma(origin - shift, group_size, sum);
    } else if constexpr (with_squares) {
      spread = squares_about<R>(rows, sum * inverse);
    }
    if constexpr (place == Place::within_stretch) {
      const Vec old = Vec::load(sums.sum + j, lanes...);
      if constexpr (with_squares)
        spread = of_group.squares(old, Vec::load(sums.squares + j, lanes...), sum, spread);
      sum = old + sum;
    }
    sum.store(sums.sum + j, lanes...);
    if constexpr (with_squares) spread.store(sums.squares + j, lanes...);
  };
  for_each_line<R / 2, T>(columns, later, body);
  for (int k = 0; k < R; ++k) sq_norms[k] += sum(norms[k]);
}

// Adds the inner products of R rows with the mean, over at most `segment` columns.
template <int R, class T, class Later, class Vec = VecOf<T>>
inline void product_rows(const T* grads, std::int64_t row_stride, std::int64_t columns,
                         const typename Vec::Lane* mean, double* inner_products,
                         const Later& later) {
  Vec products[R];
  for (int k = 0; k < R; ++k) products[k] = Vec::fill(0);
  for_each_line<R - R / 2, T>(columns, later, [&](std::int64_t j, auto... lanes) {
    const Vec m = Vec::load(mean + j, lanes...);
    for (int k = 0; k < R; ++k)
      products[k] = fma(Vec::load(grads + k * row_stride + j, lanes...), m, products[k]);
  });
  for (int k = 0; k < R; ++k) inner_products[k] += sum(products[k]);
}

// Both sweeps over blocks of equal rows: a group of rows after the other, and within a group a
// segment of the first sweep beside a segment of the second.
template <bool with_squares, class T>
struct Sweeps {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;

  const MomentsSweep* first;
  const ProductsSweep* second;
  std::int64_t rows;
  Lane* totals;  // [2, moments_columns]

  static std::int64_t columns(const Block& block, std::int64_t start) {
    const std::int64_t left = block.columns - start;
    return left < segment<Vec> ? left : segment<Vec>;
  }

  template <int R>
  void group(std::int64_t row) const {
    const std::int64_t one = first ? first->block.columns : 0;
    const std::int64_t two = second ? second->block.columns : 0;
    for (std::int64_t start = 0; start < one || start < two; start += segment<Vec>) {
      const bool pools = start < one;
      const bool multiplies = start < two;
      const T* next = R > 1 && pools && multiplies ? after<R>(row, start) : nullptr;
      if (next) {
        const std::int64_t stride = first->block.row_stride;
        pool<R>(row, start, Ahead<T>{next, stride});
        product<R>(row, start, Ahead<T>{next + R / 2 * stride, stride});
      } else {
        if (pools) pool<R>(row, start, Nothing{});
        if (multiplies) product<R>(row, start, Nothing{});
      }
    }
  }

  // What the first sweep reads after this segment: the next one, or the next group's first.
  template <int R>
  const T* after(std::int64_t row, std::int64_t start) const {
    const T* from = grads(first->block, row);
    if (start + segment<Vec> < first->block.columns) return from + start + segment<Vec>;
    return row + 2 * R <= rows ? from + R * first->block.row_stride : nullptr;
  }

  static const T* grads(const Block& block, std::int64_t row) {
    return static_cast<const T*>(block.grads) + row * block.row_stride;
  }

  Sums<Lane> sums() const {
    return {static_cast<Lane*>(first->mean), static_cast<Lane*>(first->squares),
            static_cast<Lane*>(first->shift), totals, totals + moments_columns};
  }

  template <int R, class Later>
  void pool(std::int64_t row, std::int64_t start, const Later& later) const {
    const std::int64_t begin = row / moments_stretch<Vec> * moments_stretch<Vec>;
    if (row == 0) {
      pool<R, Place::first>(row, begin, start, later);
    } else if (row == begin) {
      pool<R, Place::first_of_stretch>(row, begin, start, later);
    } else {
      pool<R, Place::within_stretch>(row, begin, start, later);
    }
  }
  template <int R, Place place, class Later>
  void pool(std::int64_t row, std::int64_t begin, std::int64_t start, const Later& later) const {
    const Block& block = first->block;
    pool_rows<R, place, with_squares>(grads(block, row) + start, block.row_stride,
                                      columns(block, start), sums().from(start), begin, row,
                                      first->sq_norms + row, later);
  }

  template <int R, class Later>
  void product(std::int64_t row, std::int64_t start, const Later& later) const {
    const Block& block = second->block;
    product_rows<R>(grads(block, row) + start, block.row_stride, columns(block, start),
                    static_cast<const Lane*>(second->mean) + start, second->inner_products + row,
                    later);
  }

  // Mean and squares of all rows, from those of the last stretch and of all before it.
  void settle() const {
    const Sums<Lane> all = sums();
    const std::int64_t before = (rows - 1) / moments_stretch<Vec> * moments_stretch<Vec>;
    const Pooling<Vec> of_stretch(before, rows - before);
    const Vec count = Vec::fill(static_cast<double>(rows));
    const Vec share = Vec::fill(1 / static_cast<double>(rows));
    for_each_vector<Vec>(first->block.columns, [&](std::int64_t j, auto... lanes) {
      Vec sum = Vec::load(all.sum + j, lanes...);
      if (before > 0) {
        const Vec total = Vec::load(all.total + j, lanes...);
        if constexpr (with_squares)
          of_stretch
              .squares(total, Vec::load(all.total_squares + j, lanes...), sum,
                       Vec::load(all.squares + j, lanes...))
              .store(all.squares + j, lanes...);
        sum = total + sum;
      }
      if constexpr (with_squares) {
        fma(sum, share, Vec::load(all.shift + j, lanes...)).store(all.sum + j, lanes...);
      } else {
        (sum / count).store(all.sum + j, lanes...);
      }
    });
  }

  void run() const {
    constexpr int R = group_rows<Vec>;
    std::int64_t row = 0;
    for (; row + R <= rows; row += R) group<R>(row);
    for (; row < rows; ++row) group<1>(row);
    if (first) settle();
  }
};

template <class T>
void moments(const MomentsSweep* first, const ProductsSweep* second) {
  const std::int64_t rows = first ? first->block.rows : second->block.rows;
  alignas(64) typename VecOf<T>::Lane totals[2 * moments_columns];
  if (first && first->squares) {
    Sweeps<true, T>{first, second, rows, totals}.run();
  } else {
    Sweeps<false, T>{first, second, rows, totals}.run();
  }
}

template <class T>
void merge(const MomentsMerge& parts) {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;
  Lane* mean = static_cast<Lane*>(parts.mean);
  Lane* squares = static_cast<Lane*>(parts.squares);
  const Lane* from_mean = static_cast<const Lane*>(parts.from_mean);
  const Lane* from_squares = static_cast<const Lane*>(parts.from_squares);
  const double n = static_cast<double>(parts.into_rows);
  const double r = static_cast<double>(parts.from_rows);
  const Vec rate = Vec::fill(r / (n + r));
  const Vec pooled = Vec::fill(n * r / (n + r));
  for_each_vector<Vec>(parts.columns, [&](std::int64_t j, auto... lanes) {
    const Vec old = Vec::load(mean + j, lanes...);
    const Vec delta = Vec::load(from_mean + j, lanes...) - old;
    fma(delta, rate, old).store(mean + j, lanes...);
    if (squares) {
      const Vec both = Vec::load(squares + j, lanes...) + Vec::load(from_squares + j, lanes...);
      fma(delta * delta, pooled, both).store(squares + j, lanes...);
    }
  });
}

template <class T>
void finish(const MomentsFinish& block) {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;
  if (block.squares) {
    Lane* squares = static_cast<Lane*>(block.squares);
    const Vec degrees = Vec::fill(static_cast<double>(block.rows - 1));
    for_each_vector<Vec>(block.columns, [&](std::int64_t j, auto... lanes) {
      (Vec::load(squares + j, lanes...) / degrees).store(squares + j, lanes...);
    });
  }
  if (block.param) {
    const Lane* mean = static_cast<const Lane*>(block.mean);
    update<T>(static_cast<T*>(block.param), mean, static_cast<T*>(block.state_sum), block.columns,
              block.scalars);
  }
}

}  // namespace

constexpr MomentsLoops moments_loops = {
    .sweep = {moments<float>, moments<BFloat16>, moments<Float16>, moments<double>},
    .merge = {merge<float>, merge<BFloat16>, merge<Float16>, merge<double>},
    .finish = {finish<float>, finish<BFloat16>, finish<Float16>, finish<double>},
};
