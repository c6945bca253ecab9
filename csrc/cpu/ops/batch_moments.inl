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
template <class Vec>
inline constexpr std::int64_t segment = 64 * Vec::width;

// Adds up R values pairwise, so that the additions do not wait for one another.
template <int R, class Vec>
inline Vec total(const Vec* values) {
  if constexpr (R == 1) {
    return values[0];
  } else {
    return total<R / 2>(values) + total<R - R / 2>(values + R / 2);
  }
}

// Pools R rows into the column sums of a block, after `before` rows.
template <int R, bool with_squares, class T, class Vec = VecOf<T>>
inline void pool_rows(const T* grads, std::int64_t row_stride, std::int64_t columns,
                      std::int64_t before, typename Vec::Lane* mean, typename Vec::Lane* squares,
                      typename Vec::Lane* shift, double* sq_norms) {
  const double n = static_cast<double>(before);
  const Vec rate = Vec::fill(R / (n + R));
  const Vec pooled = Vec::fill(n * R / (n + R));
  const Vec inverse = Vec::fill(1.0 / R);
  for (std::int64_t start = 0; start < columns; start += segment<Vec>) {
    const std::int64_t length = columns - start < segment<Vec> ? columns - start : segment<Vec>;
    Vec norms[R];
    for (int k = 0; k < R; ++k) norms[k] = Vec::fill(0);
    for_each_vector<Vec>(length, [&](std::int64_t offset, auto... lanes) {
      const std::int64_t j = start + offset;
      Vec rows[R];
      for (int k = 0; k < R; ++k) {
        rows[k] = Vec::load(grads + k * row_stride + j, lanes...);
        norms[k] = fma(rows[k], rows[k], norms[k]);
      }
      if constexpr (!with_squares) {
        const Vec sum = total<R>(rows);
        (before == 0 ? sum : sum + Vec::load(mean + j, lanes...)).store(mean + j, lanes...);
      } else {
        const Vec origin =
            before == 0 ? total<R>(rows) * inverse : Vec::load(shift + j, lanes...);
        for (int k = 0; k < R; ++k) rows[k] = rows[k] - origin;
        const Vec center = total<R>(rows) * inverse;
        Vec spread = (rows[0] - center) * (rows[0] - center);
        for (int k = 1; k < R; ++k) spread = fma(rows[k] - center, rows[k] - center, spread);
        if (before == 0) {
          origin.store(shift + j, lanes...);
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
}

// Adds the inner products of R rows with the mean.
template <int R, class T, class Vec = VecOf<T>>
inline void product_rows(const T* grads, std::int64_t row_stride, std::int64_t columns,
                         const typename Vec::Lane* mean, double* inner_products) {
  for (std::int64_t start = 0; start < columns; start += segment<Vec>) {
    const std::int64_t length = columns - start < segment<Vec> ? columns - start : segment<Vec>;
    Vec products[R];
    for (int k = 0; k < R; ++k) products[k] = Vec::fill(0);
    for_each_vector<Vec>(length, [&](std::int64_t offset, auto... lanes) {
      const std::int64_t j = start + offset;
      const Vec m = Vec::load(mean + j, lanes...);
      for (int k = 0; k < R; ++k)
        products[k] = fma(Vec::load(grads + k * row_stride + j, lanes...), m, products[k]);
    });
    for (int k = 0; k < R; ++k) inner_products[k] += sum(products[k]);
  }
}

template <bool with_squares, class T, class Vec = VecOf<T>>
void sweep_block(const MomentsSweep* first, const ProductsSweep* second) {
  using Lane = typename Vec::Lane;
  constexpr int R = group_rows<Vec>;
  const std::int64_t rows = first ? first->block.rows : second->block.rows;
  const auto sweep_rows = [&]<int r>(std::int64_t row) {
    if (first) {
      const Block& block = first->block;
      pool_rows<r, with_squares>(static_cast<const T*>(block.grads) + row * block.row_stride,
                                 block.row_stride, block.columns, row,
                                 static_cast<Lane*>(first->mean),
                                 static_cast<Lane*>(first->squares),
                                 static_cast<Lane*>(first->shift), first->sq_norms + row);
    }
    if (second) {
      const Block& block = second->block;
      product_rows<r>(static_cast<const T*>(block.grads) + row * block.row_stride,
                      block.row_stride, block.columns, static_cast<const Lane*>(second->mean),
                      second->inner_products + row);
    }
  };
  std::int64_t row = 0;
  for (; row + R <= rows; row += R) sweep_rows.template operator()<R>(row);
  for (; row < rows; ++row) sweep_rows.template operator()<1>(row);

  if (!first) return;
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

template <class T>
void moments(const MomentsSweep* first, const ProductsSweep* second) {
  if (first && first->squares) {
    sweep_block<true, T>(first, second);
  } else {
    sweep_block<false, T>(first, second);
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
      const Vec both =
          Vec::load(squares + j, lanes...) + Vec::load(from_squares + j, lanes...);
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
