// Decides how a chunk is cut, and launches accumulate_moments_kernel.
#include "cuda/accumulate_moments.cuh"
#include "cuda/launch.h"
#include "cuda/sum_partials.h"

namespace adak::cuda {
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
                              shared_bytes<with_squares>(rows, moments_threads));
    const int lanes = lanes_for(rows, resident);
    const std::int64_t shared = shared_bytes<with_squares>(rows, lanes);
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
                               partials,
                               nullptr};
      const Running running = {args_.sum, args_.squares, args_.samples + row};
      call_.launch(running.rows > 0 ? go_on : begin, blocks(parts), moments_threads, shared, chunk,
                   running);
      sum_partials(call_, partials, parts, count, args_.sq_norms + row);
      partials += parts * count;
    }
  }

  template <bool with_squares>
  static std::int64_t shared_bytes(std::int64_t rows, int lanes) {
    return ColumnParts<with_squares>::numbers(Chunk<T>::size, lanes) * std::int64_t{4} +
           RowTotals::numbers(static_cast<int>(rows), lanes) * std::int64_t{8};
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
