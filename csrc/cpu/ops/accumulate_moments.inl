// A chunk of rows h_i added to the running sum of those before it, and their squared deviations:
//     sum += sum_i h_i,   s_i = |h_i|^2,
//     squares += q + (m - sum / n)^2 n r / (n + r)       (Chan, Golub, LeVeque 1983)
// for r rows with mean m and squared deviations q from it, after n rows.
//
// The chunk is read once, sums and squares are read and written once for each group of rows: four,
// or eight where there are 32 registers. Groups add up in a stretch of their own, and the stretches
// in the running sums, so that rounding hardly grows with the rows. Sums are of the sum type, norms
// add up in vectors over at most `segment` columns and then in double.
#pragma once

#include "cpu/ops/batch_moments.inl"

namespace {

inline constexpr std::int64_t accumulated_stretch = 512;

// The rows that are in a sum already, and where it is.
template <class Lane>
struct Running {
  Lane* sum;
  Lane* squares;  // or null
  std::int64_t rows;
};

template <int R, bool begins, bool with_squares, class T, class Vec = VecOf<T>>
inline void accumulate_rows(const T* chunk, std::int64_t row_stride, std::int64_t columns,
                            const Running<typename Vec::Lane>& running, double* sq_norms) {
  typename Vec::Lane* const sums = running.sum;
  typename Vec::Lane* const squares = running.squares;
  const Pooling<Vec> pooling(running.rows, R);
  const Vec inverse = Vec::fill(1.0 / R);
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
      Vec spread = squares_about<R>(rows, added * inverse);
      if constexpr (!begins)
        spread = pooling.squares(old, Vec::load(squares + j, lanes...), added, spread);
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
  void group(std::int64_t row, Running<Lane>& into) const {
    const T* chunk = static_cast<const T*>(all.block.grads) + row * all.block.row_stride;
    for (std::int64_t start = 0; start < all.block.columns; start += segment<Vec>) {
      const std::int64_t left = all.block.columns - start;
      const std::int64_t width = left < segment<Vec> ? left : segment<Vec>;
      const Running<Lane> running{into.sum + start, with_squares ? into.squares + start : nullptr,
                                  into.rows};
      if (into.rows == 0) {
        accumulate_rows<R, true, with_squares>(chunk + start, all.block.row_stride, width, running,
                                               all.sq_norms + row);
      } else {
        accumulate_rows<R, false, with_squares>(chunk + start, all.block.row_stride, width, running,
                                                all.sq_norms + row);
      }
    }
    into.rows += R;
  }

  void groups(std::int64_t row, std::int64_t end, Running<Lane> into) const {
    if constexpr (group_rows<Vec> >= 8)
      for (; row + 8 <= end; row += 8) group<8>(row, into);
    for (; row + 4 <= end; row += 4) group<4>(row, into);
    for (; row + 2 <= end; row += 2) group<2>(row, into);
    for (; row < end; ++row) group<1>(row, into);
  }

  void add(const Running<Lane>& into, const Running<Lane>& more) const {
    const Pooling<Vec> pooling(into.rows, more.rows);
    for_each_vector<Vec>(all.block.columns, [&](std::int64_t j, auto... lanes) {
      const Vec sum = Vec::load(into.sum + j, lanes...);
      const Vec more_sum = Vec::load(more.sum + j, lanes...);
      if constexpr (with_squares)
        pooling
            .squares(sum, Vec::load(into.squares + j, lanes...), more_sum,
                     Vec::load(more.squares + j, lanes...))
            .store(into.squares + j, lanes...);
      (sum + more_sum).store(into.sum + j, lanes...);
    });
  }

  void run() const {
    alignas(64) Lane sum[accumulated_columns];
    alignas(64) Lane squares[accumulated_columns];
    for (std::int64_t row = 0; row < all.block.rows; row += accumulated_stretch) {
      const std::int64_t left = all.block.rows - row;
      const std::int64_t rows = left < accumulated_stretch ? left : accumulated_stretch;
      const Running<Lane> running{static_cast<Lane*>(all.sum), static_cast<Lane*>(all.squares),
                                  all.samples + row};
      if (running.rows == 0 || rows <= group_rows<Vec>) {
        groups(row, row + rows, running);
      } else {
        groups(row, row + rows, {sum, squares, 0});
        add(running, {sum, squares, rows});
      }
    }
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

}  // namespace

constexpr AccumulateLoops accumulate_loops = {
    .columns = {accumulate_columns<float>, accumulate_columns<BFloat16>,
                accumulate_columns<Float16>, accumulate_columns<double>},
};
