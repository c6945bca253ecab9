// A chunk of rows h_i added to the running sum of those before it, and their squared deviations:
//     sum += sum_i h_i,   s_i = |h_i|^2,
//     squares += q + (m - sum / n)^2 n r / (n + r)       (Chan, Golub, LeVeque 1983)
// for r rows with mean m and squared deviations q from it, after n rows.
//
// The chunk is read once, sum and squares are read and written once for each group of rows: four,
// or eight where there are 32 registers. Sums are of the sum type, norms add up in vectors over at
// most `segment` columns and then in double.

// The rows that are in the sum already, and where it is.
template <class Lane>
struct Running {
  Lane* sum;
  Lane* squares;  // or null
  double rows;
};

template <int R, bool begins, bool with_squares, class T, class Vec = VecOf<T>>
inline void accumulate_rows(const T* chunk, std::int64_t row_stride, std::int64_t columns,
                            const Running<typename Vec::Lane>& running, double* sq_norms) {
  const auto [sums, squares, before] = running;
  const Vec inverse = Vec::fill(1.0 / R);
  const Vec mean_of = Vec::fill(begins ? 0.0 : 1.0 / before);
  const Vec pooled = Vec::fill(before * R / (before + R));
  Vec norms[R];
  for (int k = 0; k < R; ++k) norms[k] = Vec::fill(0);
  for_each_vector<Vec>(columns, [&](std::int64_t j, auto... lanes) {
    Vec rows[R];
    for (int k = 0; k < R; ++k) {
      rows[k] = Vec::load(chunk + k * row_stride + j, lanes...);
      norms[k] = fma(rows[k], rows[k], norms[k]);
    }
    const Vec added = total<R>(rows);
    const Vec old = begins ? Vec::fill(0) : Vec::load(sums + j, lanes...);
    if constexpr (with_squares) {
      const Vec center = added * inverse;
      for (int k = 0; k < R; ++k) rows[k] = rows[k] - center;
      Vec spread = rows[0] * rows[0];
      for (int k = 1; k < R; ++k) spread = fma(rows[k], rows[k], spread);
      if constexpr (!begins) {
        const Vec delta = center - old * mean_of;
        spread = spread + Vec::load(squares + j, lanes...);
        spread = fma(delta * delta, pooled, spread);
      }
      spread.store(squares + j, lanes...);
    }
    (begins ? added : old + added).store(sums + j, lanes...);
  });
  for (int k = 0; k < R; ++k) sq_norms[k] += sum(norms[k]);
}

template <bool with_squares, class T>
struct Accumulation {
  using Vec = VecOf<T>;
  using Lane = typename Vec::Lane;
  const AccumulateColumns& all;

  template <int R>
  void group(std::int64_t row) const {
    const T* chunk = static_cast<const T*>(all.block.grads) + row * all.block.row_stride;
    const double before = static_cast<double>(all.samples + row);
    for (std::int64_t start = 0; start < all.block.columns; start += segment<Vec>) {
      const std::int64_t left = all.block.columns - start;
      const std::int64_t width = left < segment<Vec> ? left : segment<Vec>;
      const Running<Lane> running{static_cast<Lane*>(all.sum) + start,
                                  with_squares ? static_cast<Lane*>(all.squares) + start : nullptr,
                                  before};
      if (before == 0) {
        accumulate_rows<R, true, with_squares>(chunk + start, all.block.row_stride, width, running,
                                               all.sq_norms + row);
      } else {
        accumulate_rows<R, false, with_squares>(chunk + start, all.block.row_stride, width, running,
                                                all.sq_norms + row);
      }
    }
  }

  void run() const {
    std::int64_t row = 0;
    if constexpr (group_rows<Vec> >= 8)
      for (; row + 8 <= all.block.rows; row += 8) group<8>(row);
    for (; row + 4 <= all.block.rows; row += 4) group<4>(row);
    for (; row + 2 <= all.block.rows; row += 2) group<2>(row);
    for (; row < all.block.rows; ++row) group<1>(row);
  }
};

template <class T>
void accumulate_columns(const AccumulateColumns& columns) {
  if (columns.squares) {
    Accumulation<true, T>{columns}.run();
  } else {
    Accumulation<false, T>{columns}.run();
  }
}
