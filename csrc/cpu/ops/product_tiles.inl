// h_i[r, l] = sum_t a_i[r, t] b_i[l, t] of one sample after the other, and what is asked of them.
//
// Outer products in registers: every t takes `vectors` loads of b, `rows` broadcasts of a and
// rows * vectors multiplications, so a tile of 8 x 3 vectors runs at the speed of the multiplier.
// A sample's tile then goes to cache once, 4 bytes for 2 * positions operations, and is read again
// for the sum, for the squared deviations from the mean and for the inner products. Sums are of the
// sum type; a sample's norm and product are added up in vectors within a tile, in double beyond.
//
// The outer-product form is that of Goto and van de Geijn (2008).
#pragma once

namespace {

// A sum over more positions than this goes to cache in between, where parts are added: the error of
// a sum in one chain grows with its length.
inline constexpr std::int64_t stretch = 512;

template <class Vec, int rows, int vectors>
inline void product_tile(const ProductTile& p) {
  using Lane = typename Vec::Lane;
  constexpr std::int64_t across = vectors * Vec::width;
  const std::int64_t* offsets = p.row_offsets;
  for (std::int64_t s = 0; s < p.samples; ++s) {
    const Lane* lanes = static_cast<const Lane*>(p.lanes) + s * p.lanes_sample;
    const Lane* start = static_cast<const Lane*>(p.broadcast) + s * p.broadcast_sample;
    Lane* into = static_cast<Lane*>(p.values) + s * across;
    const char* ahead = p.ahead + s * p.ahead_sample;
    for (std::int64_t begin = 0; begin < p.positions; begin += stretch) {
      Vec sums[rows][vectors];
#pragma GCC unroll 32
      for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[i][v] = Vec::fill(0);
      // One loop over all positions, also of an image: the end of a short loop costs a mispredicted
      // branch, which for rows of 14 pixels was a fifth of the time.
      const std::int64_t end = p.positions - begin < stretch ? p.positions : begin + stretch;
      for (std::int64_t t = begin; t < end; ++t) {
        __builtin_prefetch(ahead);
        ahead += p.ahead_step;
        const Lane* from = start + p.position_offsets[t];
        Vec b[vectors];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) b[v] = Vec::load(lanes + v * Vec::width);
#pragma GCC unroll 32
        for (int i = 0; i < rows; ++i) {
          const Vec a = Vec::broadcast(from + offsets[i]);
#pragma GCC unroll 4
          for (int v = 0; v < vectors; ++v) sums[i][v] = fma(a, b[v], sums[i][v]);
        }
        lanes += across;
      }
      Vec norm[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) norm[v] = Vec::fill(0);
#pragma GCC unroll 32
      for (int i = 0; i < rows; ++i) {
        if (i < p.used_rows) {
#pragma GCC unroll 4
          for (int v = 0; v < vectors; ++v) {
            Lane* value = into + i * p.row_pitch + v * Vec::width;
            if (begin > 0) sums[i][v] = sums[i][v] + Vec::load(value);
            sums[i][v].store(value);
            norm[v] = fma(sums[i][v], sums[i][v], norm[v]);
          }
        }
      }
      if (p.sq_norms && end == p.positions) {
        Vec all = norm[0];
#pragma GCC unroll 4
        for (int v = 1; v < vectors; ++v) all = all + norm[v];
        p.sq_norms[s] += sum(all);
      }
    }
  }
}

// Two sums at a time, so that one addition need not wait for the other.
template <class Vec, int vectors>
inline void sweep_row(const typename Vec::Lane* values, std::int64_t samples, std::int64_t before,
                      typename Vec::Lane* sum, typename Vec::Lane* squares) {
  constexpr std::int64_t across = vectors * Vec::width;
  Vec even[vectors], odd[vectors];
  for (int v = 0; v < vectors; ++v) even[v] = odd[v] = Vec::fill(0);
  std::int64_t s = 0;
  for (; s + 2 <= samples; s += 2) {
    for (int v = 0; v < vectors; ++v) {
      even[v] = even[v] + Vec::load(values + s * across + v * Vec::width);
      odd[v] = odd[v] + Vec::load(values + (s + 1) * across + v * Vec::width);
    }
  }
  if (s < samples)
    for (int v = 0; v < vectors; ++v)
      even[v] = even[v] + Vec::load(values + s * across + v * Vec::width);
  const double n = static_cast<double>(before);
  const double r = static_cast<double>(samples);
  const Vec inverse = Vec::fill(1.0 / r);
  Vec mean[vectors];
  for (int v = 0; v < vectors; ++v) {
    even[v] = even[v] + odd[v];
    mean[v] = even[v] * inverse;
    odd[v] = Vec::fill(0);
  }
  if (squares) {
    Vec more[vectors];
    for (int v = 0; v < vectors; ++v) more[v] = Vec::fill(0);
    for (s = 0; s + 2 <= samples; s += 2) {
      for (int v = 0; v < vectors; ++v) {
        const Vec one = Vec::load(values + s * across + v * Vec::width) - mean[v];
        const Vec two = Vec::load(values + (s + 1) * across + v * Vec::width) - mean[v];
        odd[v] = fma(one, one, odd[v]);
        more[v] = fma(two, two, more[v]);
      }
    }
    for (int v = 0; v < vectors; ++v) {
      if (s < samples) {
        const Vec one = Vec::load(values + s * across + v * Vec::width) - mean[v];
        odd[v] = fma(one, one, odd[v]);
      }
      odd[v] = odd[v] + more[v];
    }
  }
  for (int v = 0; v < vectors; ++v) {
    typename Vec::Lane* total = sum + v * Vec::width;
    if (before > 0) {
      const Vec old = Vec::load(total);
      if (squares) {
        const Vec delta = mean[v] - old * Vec::fill(1.0 / n);
        odd[v] = odd[v] + Vec::load(squares + v * Vec::width);
        odd[v] = fma(delta * delta, Vec::fill(n * r / (n + r)), odd[v]);
      }
      even[v] = even[v] + old;
    }
    even[v].store(total);
    if (squares) odd[v].store(squares + v * Vec::width);
  }
}

template <class Vec, int vectors>
inline void sweep_tile(const ProductSweep& p) {
  using Lane = typename Vec::Lane;
  constexpr std::int64_t across = vectors * Vec::width;
  for (std::int64_t i = 0; i < p.rows; ++i) {
    Lane* squares = p.squares ? static_cast<Lane*>(p.squares) + i * across : nullptr;
    sweep_row<Vec, vectors>(static_cast<const Lane*>(p.values) + i * p.row_pitch, p.samples,
                            p.before, static_cast<Lane*>(p.sum) + i * across, squares);
  }
}

template <class Vec>
void product_sweep(const ProductSweep& p) {
  if (p.vectors == 1) return sweep_tile<Vec, 1>(p);
  if (p.vectors == 2) return sweep_tile<Vec, 2>(p);
  sweep_tile<Vec, 3>(p);
}

template <class Vec, int vectors>
inline void dot_tile(const ProductDots& p) {
  using Lane = typename Vec::Lane;
  constexpr std::int64_t across = vectors * Vec::width;
  const Lane* total = static_cast<const Lane*>(p.total);
  for (std::int64_t s = 0; s < p.samples; ++s) {
    const Lane* values = static_cast<const Lane*>(p.values) + s * across;
    Vec even[vectors], odd[vectors];
    for (int v = 0; v < vectors; ++v) even[v] = odd[v] = Vec::fill(0);
    std::int64_t i = 0;
    for (; i + 2 <= p.rows; i += 2) {
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t at = i * across + v * Vec::width;
        even[v] = fma(Vec::load(values + i * p.row_pitch + v * Vec::width), Vec::load(total + at),
                      even[v]);
        odd[v] = fma(Vec::load(values + (i + 1) * p.row_pitch + v * Vec::width),
                     Vec::load(total + at + across), odd[v]);
      }
    }
    Vec all = Vec::fill(0);
    for (int v = 0; v < vectors; ++v) {
      if (i < p.rows)
        even[v] = fma(Vec::load(values + i * p.row_pitch + v * Vec::width),
                      Vec::load(total + i * across + v * Vec::width), even[v]);
      all = all + (even[v] + odd[v]);
    }
    p.products[s] += sum(all);
  }
}

template <class Vec>
void product_dots(const ProductDots& p) {
  if (p.vectors == 1) return dot_tile<Vec, 1>(p);
  if (p.vectors == 2) return dot_tile<Vec, 2>(p);
  dot_tile<Vec, 3>(p);
}

// The tiles that fill the registers: sums, one row of b, and a broadcast. Heights beside the widest
// are those of common kernels: 9 = 3 x 3, 25 = 5 x 5, and 13, which goes twice into 25.
template <class Vec, int rows, int vectors>
constexpr TileShape tile_shape() {
  TileShape shape{rows, vectors, {}};
  shape.tiles[0] = product_tile<Vec, rows, 1>;
  if constexpr (vectors > 1) shape.tiles[1] = product_tile<Vec, rows, 2>;
  if constexpr (vectors > 2) shape.tiles[2] = product_tile<Vec, rows, 3>;
  return shape;
}

template <class Vec, std::int64_t registers>
struct TileShapes {
  static constexpr TileShape list[] = {tile_shape<Vec, 4, 3>(), tile_shape<Vec, 6, 2>(),
                                       tile_shape<Vec, 5, 2>(), tile_shape<Vec, 13, 1>()};
  static constexpr std::int64_t count = 4;
};
template <class Vec>
struct TileShapes<Vec, 32> {
  static constexpr TileShape list[] = {tile_shape<Vec, 8, 3>(), tile_shape<Vec, 9, 3>(),
                                       tile_shape<Vec, 13, 2>(), tile_shape<Vec, 25, 1>()};
  static constexpr std::int64_t count = 4;
};

}  // namespace
