// h_i = (sum_t y_it x_it', sum_t y_it): their sum over i, s_i = |h_i|^2, the variance of every
// coordinate of h_i, and p_i = <h_i, sum_j h_j>.
//
// The matrix of all h_i is never there. A block owns a tile of 64 x 64 coordinates of the weight,
// 16 of them to each thread, and takes its samples one after another: their rows of x and y go
// through shared memory as float32, 16 positions at a time (32 of the narrow types), while the next
// ones are on their way; the tile v of h_i grows in registers; at the end of the sample it is added
// to the sums, its squares to the norm, and starts again from zero. Staging knows positions and no
// samples, so that short sequences fill it as well as long ones; the end of a sample is as many
// instructions as four positions, six with the variance. The blocks of the first tile of a row sum
// the bias too, a thread for each of 64 outputs.
//
// Where there are fewer tiles than the device holds blocks, the samples are split as well, and
// linear_merge_kernel adds up the splits. Inner products need the whole sum first: the same sweep
// runs a second time (linear_products_kernel) and multiplies v with the finished gradient. That
// costs as much as <y_it, W x_it + b> would, and needs no other kernel.
//
// Least traffic with such tiles: x once for every 64 outputs and y once for every 64 inputs, which
// a device's second cache turns into once where one wave of blocks holds them; 4 bytes of each
// coordinate for the gradient and the variance each; 8 bytes for each sample and tile. v, its sums
// and its squares in float32, those of several warps and tiles in float64. Products are FFMA: 32
// bits whole, where tensor cores would round to 10.
//
// The variance is pooled one sample at a time from deviations (Welford 1962, with the sum in the
// mean's place): d = v - (sum so far)/n, squares += d^2 n/(n-1); splits as in column_sums.cuh.
#pragma once

#include "cuda/device.cuh"

namespace adak::cuda {

inline constexpr int tile_side = 64;
inline constexpr int linear_threads = 256;
inline constexpr int linear_warps = linear_threads / warp_threads;
inline constexpr int patch = 4;  // a thread has patch x patch coordinates of the tile

// x or y, and how a thread gets from a row to the one it stages next.
template <class T>
struct Sequences {
  static constexpr int lanes = tile_side / Chunk<T>::size;  // threads that share a row of a tile
  static constexpr int staged = linear_threads / lanes;     // positions staged at a time

  const T* values;  // [samples, positions, features]
  std::int64_t features;
  std::int64_t sample_stride;
  std::int64_t position_stride;
  std::int64_t step;  // over `staged` positions, in elements,
  std::int64_t wrap;  // and what to add where that passes the end of a sample
  bool aligned;       // every row begins at a multiple of 16 bytes
};

// This thread's part in staging the rows of a tile: 16 bytes of every `staged`-th of them.
template <class T>
struct Feed {
  static constexpr int size = Chunk<T>::size, lanes = Sequences<T>::lanes;

  const Sequences<T>& from;
  std::int64_t next;  // this lane's first element of the row it takes next
  int there;          // from that element to the end of the features
  int lane;

  __device__ Feed(const Sequences<T>& sequences, std::int64_t sample, std::int64_t position,
                  std::int64_t column)
      : from(sequences), lane(static_cast<int>(threadIdx.x) % lanes) {
    const int first = place<T>(lane, lanes, 0, from.aligned);
    next = sample * from.sample_stride + position * from.position_stride + column + first;
    there = reach(from.features - column) - first;
  }
  __device__ void advance(bool wraps) { next += from.step + (wraps ? from.wrap : 0); }

  // Zero where there is nothing. Other blocks read the same soon, so nothing is evicted early.
  __device__ Chunk<T> load(bool row_is_there) const {
    if (!row_is_there) return Chunk<T>::zero();
    const T* const span = from.values + next;
    if (from.aligned && there >= size) return Chunk<T>::of(*reinterpret_cast<const uint4*>(span));
    Chunk<T> chunk;
    const int apart = from.aligned ? 1 : lanes;
#pragma unroll
    for (int k = 0; k < size; ++k)
      chunk.elements[k] = k * apart < there ? span[k * apart] : from_float<T>(0.0f);
    return chunk;
  }
  __device__ void stage(const Chunk<T>& chunk, float* row) const {
    float values[size];
#pragma unroll
    for (int k = 0; k < size; ++k) values[k] = to_float(chunk.elements[k]);
    if (from.aligned) {
      float4* const to = reinterpret_cast<float4*>(row + lane * size);
#pragma unroll
      for (int k = 0; k < size; k += 4)
        to[k / 4] = make_float4(values[k], values[k + 1], values[k + 2], values[k + 3]);
    } else {
#pragma unroll
      for (int k = 0; k < size; ++k) row[k * lanes + lane] = values[k];
    }
  }
};

template <class T>
struct LinearLayer {
  Sequences<T> inputs;
  Sequences<T> grads;
  std::int64_t samples;
  std::int64_t positions;       // at least 1
  std::int64_t positions_step;  // of `staged`, what is left over of whole samples
  std::int64_t samples_per_split;
  std::int64_t in_features;  // those of the sequences, but where they have no positions
  std::int64_t out_features;
  unsigned in_tiles;
  bool bias;
  double* partials;  // [tiles, samples]: norms or products
};

// The sums of all samples or of one split's; rows of a split are aligned to 16 bytes.
struct LinearSums {
  float* weight;         // [splits, weight_stride]
  float* weight_spread;  // the same, or null
  std::int64_t weight_stride;
  float* bias;         // [splits, bias_stride], or null
  float* bias_spread;  // the same, or null
  std::int64_t bias_stride;
  float divisor;  // of squares: 1, or, for a variance, samples - 1
};

// This thread's coordinates: rows are outputs. Eight lanes of a warp lie along the inputs and four
// along the outputs, so that a warp reads 128 and 64 different bytes of a position.
struct Patch {
  std::int64_t out;  // the first of four
  std::int64_t in;
  int out_at;  // the same within the tile
  int in_at;

  __device__ explicit Patch(unsigned in_tiles) {
    const int lane = static_cast<int>(threadIdx.x) % warp_threads;
    const int warp = static_cast<int>(threadIdx.x) / warp_threads;
    in_at = (lane % 8 + warp % 2 * 8) * patch;
    out_at = (lane / 8 + warp / 2 * 4) * patch;
    out = static_cast<std::int64_t>(blockIdx.x / in_tiles) * tile_side + out_at;
    in = static_cast<std::int64_t>(blockIdx.x % in_tiles) * tile_side + in_at;
  }
  // The output whose bias this thread sums, for the first 64 threads of a row's first tile.
  __device__ std::int64_t bias() const {
    return out - out_at + static_cast<std::int64_t>(threadIdx.x);
  }
  template <class T>
  __device__ bool has_bias(const LinearLayer<T>& layer) const {
    return layer.bias && in == in_at && static_cast<int>(threadIdx.x) < tile_side;
  }
};

// Runs `taken(v, bias, n)` for the n-th sample of the block, counted from 1, whose tile is v: it
// gives this thread's share of the sample's norm or product. What is outside of the layer is zero.
template <class T, class Taken>
__device__ inline void for_each_sample(const LinearLayer<T>& layer, const Patch& at, Taken& taken) {
  constexpr int lanes = Sequences<T>::lanes, staged = Sequences<T>::staged;
  alignas(16) __shared__ float inputs[2][staged][tile_side];
  alignas(16) __shared__ float grads[2][staged][tile_side];
  __shared__ float shares[2][linear_warps][staged];  // of samples that end among those positions

  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * layer.samples_per_split;
  const std::int64_t rest = layer.samples - first;
  std::int64_t left =
      (rest < layer.samples_per_split ? rest : layer.samples_per_split) * layer.positions;
  double* out = layer.partials + static_cast<std::int64_t>(blockIdx.x) * layer.samples + first;

  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / lanes, warp = thread / warp_threads;
  std::int64_t position = row % layer.positions;
  const std::int64_t sample = first + row / layer.positions;
  Feed<T> feed_inputs(layer.inputs, sample, position, at.in - at.in_at);
  Feed<T> feed_grads(layer.grads, sample, position, at.out - at.out_at);

  const bool whole = at.out - at.out_at + tile_side <= layer.out_features &&
                     at.in - at.in_at + tile_side <= layer.in_features;
  const bool with_bias = at.has_bias(layer);
  float v[patch][patch] = {};
  float bias = 0;
  std::int64_t summed = 0;  // positions in v
  float count = 0;          // samples so far

  feed_inputs.stage(feed_inputs.load(row < left), inputs[0][row]);
  feed_grads.stage(feed_grads.load(row < left), grads[0][row]);
  __syncthreads();
#pragma unroll 1
  for (int now = 0; left > 0; now ^= 1) {
    position += layer.positions_step;
    const bool wraps = position >= layer.positions;
    if (wraps) position -= layer.positions;
    feed_inputs.advance(wraps);
    feed_grads.advance(wraps);
    const Chunk<T> next_input = feed_inputs.load(row < left - staged);
    const Chunk<T> next_grad = feed_grads.load(row < left - staged);
    const int rows = left < staged ? static_cast<int>(left) : staged;
    int ended = 0;
#pragma unroll 1
    for (int k = 0; k < rows;) {
      const std::int64_t to_end = layer.positions - summed;
      const int end = to_end < rows - k ? k + static_cast<int>(to_end) : rows;
      if (with_bias)
        for (int p = k; p < end; ++p) bias += grads[now][p][thread];
      summed += end - k;
#pragma unroll 2
      for (; k < end; ++k) {
        const float4 x = *reinterpret_cast<const float4*>(&inputs[now][k][at.in_at]);
        const float4 y = *reinterpret_cast<const float4*>(&grads[now][k][at.out_at]);
        const float of_x[patch] = {x.x, x.y, x.z, x.w}, of_y[patch] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int i = 0; i < patch; ++i)
#pragma unroll
          for (int j = 0; j < patch; ++j) v[i][j] = fmaf(of_y[i], of_x[j], v[i][j]);
      }
      if (summed < layer.positions) continue;
      if (!whole) {  // zero times what is not finite would be NaN
#pragma unroll
        for (int i = 0; i < patch; ++i)
#pragma unroll
          for (int j = 0; j < patch; ++j)
            if (at.out + i >= layer.out_features || at.in + j >= layer.in_features) v[i][j] = 0;
      }
      count += 1.0f;
      const float share = sum_lanes(taken(v, bias, count), warp_threads);
      if (thread % warp_threads == 0) shares[now][warp][ended] = share;
      ++ended;
      summed = 0;
      bias = 0;
#pragma unroll
      for (int i = 0; i < patch; ++i)
#pragma unroll
        for (int j = 0; j < patch; ++j) v[i][j] = 0;
    }
    feed_inputs.stage(next_input, inputs[now ^ 1][row]);
    feed_grads.stage(next_grad, grads[now ^ 1][row]);
    __syncthreads();
    if (thread < ended) {
      double total = 0;
#pragma unroll
      for (int w = 0; w < linear_warps; ++w) total += static_cast<double>(shares[now][w][thread]);
      out[thread] = total;
    }
    out += ended;
    left -= staged;
  }
}

// Sums and squared deviations of coordinates.
template <bool with_variance>
struct TileMoments {
  float sums[patch][patch] = {};
  float squares[with_variance ? patch : 1][patch] = {};
  float bias_sum = 0;
  float bias_squares = 0;

  __device__ float operator()(const float (&v)[patch][patch], float bias, float count) {
    const float share = 1.0f / count;
    const float rate = count == 1.0f ? 0.0f : count / (count - 1.0f);
    float norm = bias * bias;
    bias_sum += bias;
    if constexpr (with_variance) add(bias, bias_sum, share, rate, bias_squares);
#pragma unroll
    for (int i = 0; i < patch; ++i)
#pragma unroll
      for (int j = 0; j < patch; ++j) {
        sums[i][j] += v[i][j];
        norm = fmaf(v[i][j], v[i][j], norm);
        if constexpr (with_variance) add(v[i][j], sums[i][j], share, rate, squares[i][j]);
      }
    return norm;
  }

 private:
  __device__ static void add(float value, float sum, float share, float rate, float& squares) {
    const float deviation = fmaf(-share, sum, value);
    squares = fmaf(deviation * deviation, rate, squares);
  }
};

// Writes this thread's coordinates, four of a row at once where rows are aligned. An assignment the
// compiler would take apart.
template <class T>
__device__ inline void store_patch(const float (&values)[patch][patch], const LinearLayer<T>& layer,
                                   const Patch& at, float* weight) {
  float* row = weight + at.out * layer.in_features + at.in;
  if (layer.in_features % patch == 0 && at.in < layer.in_features) {
#pragma unroll
    for (int i = 0; i < patch; ++i) {
      if (at.out + i >= layer.out_features) return;
      __stcg(reinterpret_cast<float4*>(row),
             make_float4(values[i][0], values[i][1], values[i][2], values[i][3]));
      row += layer.in_features;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < patch; ++i) {
    if (at.out + i >= layer.out_features) return;
#pragma unroll
    for (int j = 0; j < patch; ++j)
      if (at.in + j < layer.in_features) row[j] = values[i][j];
    row += layer.in_features;
  }
}

// Everything but the inner products, of this block's samples.
template <class T, bool with_variance>
__global__ void __launch_bounds__(linear_threads, 2)
    linear_moments_kernel(const __grid_constant__ LinearLayer<T> layer,
                          const __grid_constant__ LinearSums sums) {
  const Patch at(layer.in_tiles);
  TileMoments<with_variance> moments;
  for_each_sample(layer, at, moments);
  const std::int64_t split = static_cast<std::int64_t>(blockIdx.y) * sums.weight_stride;
  store_patch(moments.sums, layer, at, sums.weight + split);
  if constexpr (with_variance) {
#pragma unroll
    for (int i = 0; i < patch; ++i)
#pragma unroll
      for (int j = 0; j < patch; ++j) moments.squares[i][j] /= sums.divisor;
    store_patch(moments.squares, layer, at, sums.weight_spread + split);
  }
  if (!at.has_bias(layer) || at.bias() >= layer.out_features) return;
  const std::int64_t to = static_cast<std::int64_t>(blockIdx.y) * sums.bias_stride + at.bias();
  sums.bias[to] = moments.bias_sum;
  if constexpr (with_variance) sums.bias_spread[to] = moments.bias_squares / sums.divisor;
}

// The products of coordinates with their sums over all samples.
struct TileProducts {
  float sums[patch][patch] = {};
  float bias_sum = 0;

  __device__ float operator()(const float (&v)[patch][patch], float bias, float) const {
    float product = bias * bias_sum;
#pragma unroll
    for (int i = 0; i < patch; ++i)
#pragma unroll
      for (int j = 0; j < patch; ++j) product = fmaf(v[i][j], sums[i][j], product);
    return product;
  }
};

// The inner products, once the sums are whole: the second sweep.
template <class T>
__global__ void __launch_bounds__(linear_threads, 2)
    linear_products_kernel(const __grid_constant__ LinearLayer<T> layer, const float* weight,
                           const float* bias) {
  const Patch at(layer.in_tiles);
  TileProducts products;
  const bool aligned = layer.in_features % patch == 0;
#pragma unroll
  for (int i = 0; i < patch; ++i) {
    if (at.out + i >= layer.out_features) break;
    const float* const row = weight + (at.out + i) * layer.in_features + at.in;
    const auto chunk = load_chunk(row, layer.in_features - at.in, 0, 1, aligned);
#pragma unroll
    for (int j = 0; j < patch; ++j) products.sums[i][j] = chunk.elements[j];
  }
  if (at.has_bias(layer) && at.bias() < layer.out_features) products.bias_sum = bias[at.bias()];
  for_each_sample(layer, at, products);
}

// What the splits have of `count` coordinates, and how many samples each.
struct LinearSplits {
  const float* sums;     // [splits, stride]
  const float* squares;  // the same, or null
  std::int64_t stride;
  std::int64_t count;
  std::int64_t samples;
  std::int64_t samples_per_split;
};

// Adds up the splits, four adjacent coordinates to each thread; pooled in their order.
template <bool with_variance>
__global__ void __launch_bounds__(linear_threads)
    linear_merge_kernel(const __grid_constant__ LinearSplits splits, float* sums, float* variance) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * linear_threads * patch;
  const std::int64_t left = splits.count - start;
  const int lane = static_cast<int>(threadIdx.x);
  Chunk<float> sum = Chunk<float>::zero(), spread = Chunk<float>::zero();
  std::int64_t before = 0;
  for (std::int64_t at = start; before < splits.samples; at += splits.stride) {
    const std::int64_t rest = splits.samples - before;
    const std::int64_t more = rest < splits.samples_per_split ? rest : splits.samples_per_split;
    const auto others = load_chunk(splits.sums + at, left, lane, linear_threads, true);
    if constexpr (with_variance) {
      const auto squares = load_chunk(splits.squares + at, left, lane, linear_threads, true);
      const float n = static_cast<float>(before), m = static_cast<float>(more);
      const float rate = n * (m / (n + m));
#pragma unroll
      for (int k = 0; k < Chunk<float>::size; ++k) {
        const float apart = before == 0 ? 0.0f : others.elements[k] / m - sum.elements[k] / n;
        spread.elements[k] += fmaf(apart * apart, rate, squares.elements[k]);
      }
    }
#pragma unroll
    for (int k = 0; k < Chunk<float>::size; ++k) sum.elements[k] += others.elements[k];
    before += more;
  }
  store_chunk(sum, sums + start, left, lane, linear_threads, true);
  if constexpr (with_variance) {
#pragma unroll
    for (int k = 0; k < Chunk<float>::size; ++k)
      spread.elements[k] /= static_cast<float>(splits.samples - 1);
    store_chunk(spread, variance + start, left, lane, linear_threads, true);
  }
}

}  // namespace adak::cuda
