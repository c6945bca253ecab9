// sum += sum_i h_i, s_i = |h_i|^2, squares += q + (m - sum / n)^2 n r / (n + r), for the r rows h_i
// of a chunk with mean m and squared deviations q from it, after n rows (Chan, Golub, LeVeque
// 1983).
//
// The chunk is read once. A block takes all of its rows and, one after another, every gridDim.x-th
// tile of their columns; `lanes` threads share a row of the tile, 16 bytes each, and the others
// take other rows, four at a time. Where there are tiles for all blocks every thread has all rows
// of its columns. Where there are not, the rows are shared out too, and what the threads know of a
// column is pooled through shared memory. Rows come through shared memory too, asked for before
// they are needed (strips.cuh), and sum and squares are asked for before the rows of their tile are
// added up. Norms add up in shared memory over all tiles of the block, which leaves one partial sum
// for each row (sum_partials.cuh).
//
// Least traffic: the elements of the chunk, and 8 bytes of each column for the sum and the squares
// each, 4 where n = 0. More than `most_rows` rows are several launches: 8 or 16 bytes a column more
// for each. Sums of a column in float32, of a row in float32 within a warp's share of a tile and
// from there in float64. The sum does not depend on whether squares are wanted.
#include "contracts/accumulate_moments.h"
#include "cuda/launch.h"
#include "cuda/strips.cuh"
#include "cuda/sum_partials.h"

namespace adak::cuda {

inline constexpr std::int64_t most_rows = 512;

// The rows before the chunk.
struct Running {
  float* sum;      // [features]
  float* squares;  // [features], or null
  std::int64_t rows;
};

// How rows are pooled with others, neither of them none.
struct Pooling {
  float share;         // 1 / their count
  float others_share;  // the same of the others
  float weight;        // count * others / (count + others)

  __device__ Pooling(float rows_share, float others)
      : share(rows_share), others_share(others), weight(1.0f / (rows_share + others)) {}
  __device__ static Pooling of(std::int64_t count, std::int64_t others) {
    return {1.0f / static_cast<float>(count), 1.0f / static_cast<float>(others)};
  }

  // Squares of deviations from the mean of all rows, by the sums of both.
  __device__ float operator()(float squares, float sum, float others_sum) const {
    const float apart = others_sum * others_share - sum * share;
    return fmaf(apart * apart, weight, squares);
  }
};

// What a thread knows of its columns: how many rows, their sums, and the squares of their
// deviations from their mean.
template <int size, bool with_squares>
struct ColumnRows {
  int count = 0;
  float sums[size] = {};
  float squares[with_squares ? size : 1] = {};

  // The `there` first of four rows; those that are not there are zero.
  __device__ void add(const float (&rows)[rows_together][size], int there) {
    if (there == rows_together)
      pool<true>(rows, there);
    else if (there > 0)
      pool<false>(rows, there);
  }
  __device__ void merge_lanes(int offset) {
    const int more = __shfl_down_sync(whole_warp, count, offset);
    const Pooling pooling = Pooling::of(count, more);
#pragma unroll
    for (int k = 0; k < size; ++k) {
      const float other = __shfl_down_sync(whole_warp, sums[k], offset);
      if constexpr (with_squares) {
        const float others_squares = __shfl_down_sync(whole_warp, squares[k], offset);
        if (more > 0) squares[k] = pooling(squares[k] + others_squares, sums[k], other);
      }
      sums[k] += other;
    }
    count += more;
  }

 private:
  template <bool whole>
  __device__ void pool(const float (&rows)[rows_together][size], int there) {
    const float share = whole ? 1.0f / rows_together : 1.0f / static_cast<float>(there);
    const Pooling pooling(1.0f / static_cast<float>(count), share);
#pragma unroll
    for (int k = 0; k < size; ++k) {
      const float added = (rows[0][k] + rows[1][k]) + (rows[2][k] + rows[3][k]);
      if constexpr (with_squares) {
        const float center = added * share;
        float spread = squares[k];
#pragma unroll
        for (int r = 0; r < rows_together; ++r) {
          const float away = whole || r < there ? rows[r][k] - center : 0.0f;
          spread = fmaf(away, away, spread);
        }
        squares[k] = count > 0 ? pooling(spread, sums[k], added) : spread;
      }
      sums[k] += added;
    }
    count += there;
  }
};

// The same in shared memory: of every slot, or of every warp where a warp holds several slots.
template <bool with_squares>
struct ColumnParts {
  float* sums;     // [parts, width]
  float* squares;  // [parts, width]
  int* counts;     // [parts]
  int width;
  int lanes;
  int parts;

  __host__ __device__ static int part_count(int lanes) {
    return moments_threads / (lanes < warp_threads ? warp_threads : lanes);
  }
  // In floats, a multiple of 4.
  __host__ __device__ static int numbers(int size, int lanes) {
    return (with_squares ? 2 : 1) * part_count(lanes) * lanes * size +
           moments_threads / warp_threads;
  }
  __device__ ColumnParts(float* memory, int size, int lane_count)
      : sums(memory), width(lane_count * size), lanes(lane_count), parts(part_count(lane_count)) {
    squares = sums + (with_squares ? parts * width : 0);
    counts = reinterpret_cast<int*>(squares + parts * width);
  }
  __device__ double* end() const {
    return reinterpret_cast<double*>(counts + moments_threads / warp_threads);
  }

  // Takes what the threads of a tile know; called by all of them.
  template <int size, class Tile>
  __device__ void gather(ColumnRows<size, with_squares>& rows, const Tile& tile) const {
    for (int apart = lanes; apart < warp_threads; apart *= 2) rows.merge_lanes(apart);
    const int thread = static_cast<int>(threadIdx.x);
    if (lanes < warp_threads && thread % warp_threads >= lanes) return;
    const int part = lanes < warp_threads ? thread / warp_threads : tile.slot;
    store_columns(rows.sums, sums + part * width, tile);
    if constexpr (with_squares) store_columns(rows.squares, squares + part * width, tile);
    if (tile.lane == 0) counts[part] = rows.count;
  }

  // All rows of four columns, whose first is `first` and the others `apart`.
  __device__ ColumnRows<4, with_squares> merged(int first, int apart) const {
    ColumnRows<4, with_squares> all = part(0, first, apart);
    for (int p = 1; p < parts && counts[p] > 0; ++p) {
      const ColumnRows<4, with_squares> other = part(p, first, apart);
      const Pooling pooling = Pooling::of(all.count, other.count);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if constexpr (with_squares)
          all.squares[k] = pooling(all.squares[k] + other.squares[k], all.sums[k], other.sums[k]);
        all.sums[k] += other.sums[k];
      }
      all.count += other.count;
    }
    return all;
  }

 private:
  __device__ ColumnRows<4, with_squares> part(int p, int first, int apart) const {
    ColumnRows<4, with_squares> rows;
    rows.count = counts[p];
    load_four(sums + p * width + first, apart, rows.sums);
    if constexpr (with_squares) load_four(squares + p * width + first, apart, rows.squares);
    return rows;
  }
  __device__ static void load_four(const float* row, int apart, float (&values)[4]) {
    if (apart == 1) {
      const float4 four = *reinterpret_cast<const float4*>(row);
      values[0] = four.x;
      values[1] = four.y;
      values[2] = four.z;
      values[3] = four.w;
      return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) values[k] = row[k * apart];
  }
};

// This thread's part of a tile of sum and squares: four columns at a time.
template <int fours, bool begins, bool with_squares>
struct RunningTile {
  float* sum;
  float* squares;
  std::int64_t left;
  int width;  // in fours
  bool aligned;
  Chunk<float> sums[fours];
  Chunk<float> spreads[with_squares ? fours : 1];

  __device__ RunningTile(const Running& running, std::int64_t start, std::int64_t features,
                         int columns)
      : sum(running.sum + start),
        squares(with_squares ? running.squares + start : nullptr),
        left(features - start),
        width(columns / 4),
        aligned(is_aligned(running.sum) && (!with_squares || is_aligned(running.squares))) {
    if constexpr (begins) return;
    each([&](int j, int four) {
      sums[j] = load_chunk(sum, left, four, width, aligned);
      if constexpr (with_squares) spreads[j] = load_chunk(squares, left, four, width, aligned);
    });
  }

  // Adds the rows of the chunk, and writes.
  __device__ void add(const ColumnParts<with_squares>& parts, const Running& running, int rows) {
    const Pooling pooling = Pooling::of(running.rows, rows);
    each([&](int j, int four) {
      const auto added = aligned ? parts.merged(four * 4, 1) : parts.merged(four, width);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float& total = sums[j].elements[k];
        if constexpr (with_squares) {
          float& spread = spreads[j].elements[k];
          spread =
              begins ? added.squares[k] : pooling(spread + added.squares[k], total, added.sums[k]);
        }
        total = begins ? added.sums[k] : total + added.sums[k];
      }
      store_chunk(sums[j], sum, left, four, width, aligned);
      if constexpr (with_squares) store_chunk(spreads[j], squares, left, four, width, aligned);
    });
  }

 private:
  template <class Body>
  __device__ void each(Body&& body) const {
#pragma unroll
    for (int j = 0; j < fours; ++j) {
      const int four = static_cast<int>(threadIdx.x) + j * moments_threads;
      if (four < width) body(j, four);
    }
  }
};

template <class T, bool begins, bool with_squares, bool aligned>
__global__ void __launch_bounds__(moments_threads, Chunk<T>::size == 4 ? 3 : 2)
    accumulate_moments_kernel(const __grid_constant__ Matrix<T> chunk,
                              const __grid_constant__ Running running) {
  constexpr int size = Chunk<T>::size;
  const Tile<T, aligned> tile(chunk);
  const RowSums row_sums = tile.row_sums();
  const ColumnParts<with_squares> parts(dynamic_shared<float>(), size, chunk.lanes);
  const RowTotals norms(parts.end(), tile.rows, chunk.lanes);
  Strips<T, aligned> strips(tile, reinterpret_cast<uint4*>(norms.end()));
  norms.clear();
  __syncthreads();
  for (std::int64_t t = blockIdx.x; t < tile.count(); t += gridDim.x) {
    const std::int64_t start = t * tile.width();
    RunningTile<size / 4, begins, with_squares> all(running, start, chunk.features, tile.width());
    ColumnRows<size, with_squares> columns;
    for (int base = 0; base < tile.rows; base += tile.rows_at_a_time()) {
      const int there = tile.rows_there(base);
      Chunk<T> chunks[rows_together];
      strips.take(base, start, chunks);
      float rows[rows_together][size];
#pragma unroll
      for (int r = 0; r < rows_together; ++r) unpack(chunks[r], rows[r]);
      float own[rows_together];
      squares(rows, own);
      const float norm = row_sums(own);
      if (row_sums.keeps() && row_sums.row() < there)
        norms.add(tile.row(base) + row_sums.row(), tile.lane, norm);
      columns.add(rows, there);
    }
    parts.gather(columns, tile);
    __syncthreads();
    all.add(parts, running, tile.rows);
    __syncthreads();
  }
  norms.write(chunk.norm_partials + blockIdx.x * chunk.samples);
}

// How a chunk is cut, and the launches.
namespace {

// 128 bytes of a row to a tile at least.
constexpr int least_lanes = 8;

// One call for elements of type T.
template <class T>
class Accumulation {
 public:
  Accumulation(const AccumulateMomentsArgs& args, const Call& call, const Allocate& allocate)
      : args_(args), call_(call), allocate_(allocate) {}

  void run() const {
    const bool aligned = rows_are_aligned<T>(args_.chunk, args_.rows, args_.row_stride);
    if (args_.squares)
      aligned ? run<true, true>() : run<true, false>();
    else
      aligned ? run<false, true>() : run<false, false>();
  }

 private:
  template <bool with_squares, bool aligned>
  void run() const {
    const auto begin = accumulate_moments_kernel<T, true, with_squares, aligned>;
    const auto go_on = accumulate_moments_kernel<T, false, with_squares, aligned>;
    const std::int64_t rows = std::min(args_.rows, most_rows);
    const std::int64_t resident =
        call_.resident_blocks(args_.samples > 0 ? go_on : begin, moments_threads,
                              shared_bytes<with_squares, aligned>(rows, moments_threads));
    const int lanes = lanes_for(rows, resident);
    const std::int64_t shared = shared_bytes<with_squares, aligned>(rows, lanes);
    const std::int64_t parts = std::min(resident, tiles(lanes));
    auto* partials = static_cast<double*>(allocate_(parts * args_.rows * 8));
    for (std::int64_t row = 0; row < args_.rows; row += most_rows) {
      const std::int64_t count = std::min(args_.rows - row, most_rows);
      const Matrix<T> chunk = {static_cast<const T*>(args_.chunk) + row * args_.row_stride,
                               count,
                               args_.features,
                               args_.row_stride,
                               count,
                               lanes,
                               aligned ? most_ahead : 0,
                               ring<aligned>,
                               partials,
                               nullptr};
      const Running running = {args_.sum, args_.squares, args_.samples + row};
      call_.launch(running.rows > 0 ? go_on : begin, blocks(parts), moments_threads, shared, chunk,
                   running);
      sum_partials(call_, partials, parts, count, args_.sq_norms + row);
      partials += parts * count;
    }
  }

  template <bool aligned>
  static constexpr int ring = aligned ? most_ahead + 1 : 0;
  template <bool with_squares, bool aligned>
  static std::int64_t shared_bytes(std::int64_t rows, int lanes) {
    return ColumnParts<with_squares>::numbers(Chunk<T>::size, lanes) * std::int64_t{4} +
           RowTotals::numbers(static_cast<int>(rows), lanes) * std::int64_t{8} +
           ring<aligned> * strip_bytes;
  }
  std::int64_t tiles(int lanes) const {
    return std::max<std::int64_t>(1, divide_up(args_.features, lanes * Chunk<T>::size));
  }
  // All threads of a block share a row, or fewer, where blocks would be without a tile and there
  // are four rows for each slot.
  int lanes_for(std::int64_t rows, std::int64_t resident) const {
    int lanes = moments_threads;
    while (lanes > least_lanes && 2 * tiles(lanes) <= resident &&
           rows * lanes >= 2 * moments_threads * rows_together)
      lanes /= 2;
    return lanes;
  }

  const AccumulateMomentsArgs& args_;
  const Call& call_;
  const Allocate& allocate_;
};

}  // namespace

void accumulate_moments(const AccumulateMomentsArgs& args, const Stream& stream,
                        const Allocate& allocate) {
  const Call call("accumulate_moments_", stream);
  switch (args.type) {
    case ElementType::float32:
      return Accumulation<float>(args, call, allocate).run();
    case ElementType::bfloat16:
      return Accumulation<__nv_bfloat16>(args, call, allocate).run();
    case ElementType::float16:
      return Accumulation<__half>(args, call, allocate).run();
    case ElementType::float64:
      break;
  }
  throw Error("accumulate_moments_: float64 has no CUDA kernel; accepted are the narrower types");
}

}  // namespace adak::cuda
