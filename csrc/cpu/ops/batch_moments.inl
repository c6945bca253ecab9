// mean_j = (1/b) sum_i g_ij, squares_j = sum_i (g_ij - mean_j)^2, s_i = |g_i|^2, p_i = <g_i, mean>.
//
// One read of G gives all but p, which needs the mean first: a block small enough to stay in cache
// is swept a second time. Deviations come from one sweep by pooling groups of rows (Chan, Golub,
// LeVeque 1983): with n rows pooled so far, and r more whose mean is m and whose deviations from m
// have squares q,
//     squares += q + (m - mean)^2 n r / (n + r),    mean += (m - mean) r / (n + r).
// All of it relative to the first group's mean (`shift`), so that rounding is relative to the
// spread of the gradients and not to their size.
//
// Rows are taken in groups of four (eight where there are 32 registers), because each group loads
// and stores the column sums once. Norms add up in vectors over at most `segment` columns, then in
// double.

template <class Vec>
inline constexpr int group_rows = Vec::registers >= 32 ? 8 : 4;

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

// The sums of a block's columns so far; `rows` rows have been pooled.
template <class Lane>
struct Pool {
  Lane* mean;     // relative to shift; a plain sum where squares are not wanted
  Lane* squares;  // or null
  Lane* shift;
  std::int64_t rows;
};

// Pools the columns [0, columns) of R more rows; norms add up in vectors, which is why there are
// at most `segment` columns.
template <int R, bool begins, bool with_squares, class T, class Later, class Vec = VecOf<T>>
inline void pool_rows(const T* grads, std::int64_t row_stride, std::int64_t columns,
                      const Pool<typename Vec::Lane>& pool, double* sq_norms, const Later& later) {
  const auto [mean, squares, shift, before] = pool;
  const double n = static_cast<double>(before);
  const Vec rate = Vec::fill(R / (n + R));
  const Vec pooled = Vec::fill(n * R / (n + R));
  const Vec inverse = Vec::fill(1.0 / R);
  Vec norms[R];
  for (int k = 0; k < R; ++k) norms[k] = Vec::fill(0);
  for_each_line<R / 2, T>(columns, later, [&](std::int64_t j, auto... lanes) {
    Vec rows[R];
    for (int k = 0; k < R; ++k) {
      rows[k] = Vec::load(grads + k * row_stride + j, lanes...);
      norms[k] = fma(rows[k], rows[k], norms[k]);
    }
    if constexpr (!with_squares) {
      Vec sum = total<R>(rows);
      if constexpr (!begins) sum = sum + Vec::load(mean + j, lanes...);
      sum.store(mean + j, lanes...);
    } else {
      Vec origin;
      if constexpr (begins) {
        origin = total<R>(rows) * inverse;
        origin.store(shift + j, lanes...);
      } else {
        origin = Vec::load(shift + j, lanes...);
      }
      for (int k = 0; k < R; ++k) rows[k] = rows[k] - origin;
      const Vec center = total<R>(rows) * inverse;
      for (int k = 0; k < R; ++k) rows[k] = rows[k] - center;
      Vec spread = rows[0] * rows[0];
      for (int k = 1; k < R; ++k) spread = fma(rows[k], rows[k], spread);
      if constexpr (begins) {
        center.store(mean + j, lanes...);
        spread.store(squares + j, lanes...);
      } else {
        const Vec old = Vec::load(mean + j, lanes...);
        const Vec delta = center - old;
        fma(delta, rate, old).store(mean + j, lanes...);
        spread = spread + Vec::load(squares + j, lanes...);
        fma(delta * delta, pooled, spread).store(squares + j, lanes...);
      }
    }
  });
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

  template <int R, class Later>
  void pool(std::int64_t row, std::int64_t start, const Later& later) const {
    const Block& block = first->block;
    Lane* squares = with_squares ? static_cast<Lane*>(first->squares) + start : nullptr;
    Lane* shift = with_squares ? static_cast<Lane*>(first->shift) + start : nullptr;
    const Pool<Lane> sums{static_cast<Lane*>(first->mean) + start, squares, shift, row};
    const T* from = grads(block, row) + start;
    const std::int64_t width = columns(block, start);
    double* sq_norms = first->sq_norms + row;
    if (row == 0) {
      pool_rows<R, true, with_squares>(from, block.row_stride, width, sums, sq_norms, later);
    } else {
      pool_rows<R, false, with_squares>(from, block.row_stride, width, sums, sq_norms, later);
    }
  }

  template <int R, class Later>
  void product(std::int64_t row, std::int64_t start, const Later& later) const {
    const Block& block = second->block;
    product_rows<R>(grads(block, row) + start, block.row_stride, columns(block, start),
                    static_cast<const Lane*>(second->mean) + start, second->inner_products + row,
                    later);
  }

  // The pooled mean, from relative to the shift, or from a sum.
  void settle() const {
    Lane* mean = static_cast<Lane*>(first->mean);
    const Lane* shift = static_cast<const Lane*>(first->shift);
    const Vec count = Vec::fill(static_cast<double>(rows));
    for_each_vector<Vec>(first->block.columns, [&](std::int64_t j, auto... lanes) {
      const Vec value = Vec::load(mean + j, lanes...);
      if constexpr (with_squares) {
        (value + Vec::load(shift + j, lanes...)).store(mean + j, lanes...);
      } else {
        (value / count).store(mean + j, lanes...);
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
  if (first && first->squares) {
    Sweeps<true, T>{first, second, rows}.run();
  } else {
    Sweeps<false, T>{first, second, rows}.run();
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
