// Reads a tile [positions, columns] once, writes it as [columns, positions] and adds up positions.
//
// Of a 16-bit type four positions of a column are one word, put together by shifts of whole vectors
// and stored at once: a product of narrow types multiplies rows of positions, and turning them here
// costs a tenth of what the vendor's product takes longer for columns. Sums go by stretches, so
// that rounding hardly grows with the positions.
#pragma once

#include "cpu/ops/batch_moments.inl"

namespace {

inline constexpr std::int64_t summed_stretch = 64;

template <class T>
inline void transpose_four(const T* from, std::int64_t stride, std::int64_t columns, T* into,
                           std::int64_t pitch) {
  if constexpr (sizeof(T) == 2) {
    const T *first = from, *second = first + stride, *third = second + stride,
            *fourth = third + stride;
    std::uint64_t words[transposed_columns];
    for (std::int64_t j = 0; j < columns; ++j)
      words[j] = std::uint64_t{first[j].bits} | std::uint64_t{second[j].bits} << 16 |
                 std::uint64_t{third[j].bits} << 32 | std::uint64_t{fourth[j].bits} << 48;
    for (std::int64_t j = 0; j < columns; ++j)
      __builtin_memcpy(into + j * pitch, words + j, sizeof(words[j]));
  } else {
    for (std::int64_t j = 0; j < columns; ++j)
      for (int k = 0; k < 4; ++k) into[j * pitch + k] = from[k * stride + j];
  }
}

template <int R, class T, class Vec = VecOf<T>>
inline void add_positions(const T* from, std::int64_t stride, std::int64_t columns,
                          typename Vec::Lane* sums) {
  for_each_vector<Vec>(columns, [&](std::int64_t j, auto... lanes) {
    Vec rows[R];
    for (int k = 0; k < R; ++k) rows[k] = Vec::load(from + k * stride + j, lanes...);
    (Vec::load(sums + j, lanes...) + total<R>(rows)).store(sums + j, lanes...);
  });
}

template <class T, class Vec = VecOf<T>>
void transpose_positions(const PositionsTile& tile) {
  using Lane = typename Vec::Lane;
  const T* const values = static_cast<const T*>(tile.values);
  T* const transposed = static_cast<T*>(tile.transposed);
  Lane* const sums = static_cast<Lane*>(tile.sums);
  alignas(64) Lane partial[transposed_columns];
  for (std::int64_t j = 0; sums && j < tile.columns; ++j) sums[j] = 0;
  for (std::int64_t start = 0; start < tile.positions; start += summed_stretch) {
    const std::int64_t left = tile.positions - start;
    const std::int64_t end = start + (left < summed_stretch ? left : summed_stretch);
    for (Lane& lane : partial) lane = 0;
    std::int64_t t = start;
    for (; t + 4 <= end; t += 4) {
      const T* const from = values + t * tile.stride;
      if (sums) add_positions<4>(from, tile.stride, tile.columns, partial);
      if (transposed)
        transpose_four(from, tile.stride, tile.columns, transposed + t, tile.positions);
    }
    for (; t < end; ++t) {
      const T* const from = values + t * tile.stride;
      if (sums) add_positions<1>(from, tile.stride, tile.columns, partial);
      for (std::int64_t j = 0; transposed && j < tile.columns; ++j)
        transposed[j * tile.positions + t] = from[j];
    }
    for (std::int64_t j = 0; sums && j < tile.columns; ++j) sums[j] += partial[j];
  }
}

}  // namespace

constexpr TransposePositionsLoops transpose_positions_loops = {
    .run = {transpose_positions<float>, transpose_positions<BFloat16>, transpose_positions<Float16>,
            transpose_positions<double>},
};
