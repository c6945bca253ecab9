// Decides how G is cut, and launches the kernels of batch_moments.cuh.
#include "contracts/batch_moments.h"
#include "cuda/batch_moments.cuh"
#include "cuda/launch.h"
#include "cuda/sum_partials.h"

namespace adak::cuda {
namespace {

// Two blocks of so much fit on a multiprocessor of an A100 or larger, so that one of them reads
// memory while the other is busy with its tile. (From 513 rows on an A100 holds one that keeps its
// tile, since a tile has at least four lanes; consumer GPUs always do.)
constexpr std::int64_t half_of_shared = 80 << 10;
// What a block can have on every GPU.
constexpr std::int64_t most_shared = 99 << 10;

// How a block of `rows` rows goes through them.
struct Cut {
  bool aligned;
  bool keeps_tile;
  int lanes;  // threads to a row
  int ahead;  // strips

  std::int64_t ring(std::int64_t rows) const {
    const std::int64_t strips = divide_up(rows, moments_threads / lanes * rows_together);
    return ahead + (keeps_tile ? strips : aligned ? 1 : 0);
  }
  // What the block needs.
  template <class T, bool with_variance>
  std::int64_t shared_bytes(std::int64_t rows) const {
    const std::int64_t columns =
        ColumnTotals<with_variance>::numbers(Chunk<T>::size, lanes) * std::int64_t{4};
    const std::int64_t sums = RowTotals::numbers(static_cast<int>(rows), lanes) * std::int64_t{8};
    return columns + (keeps_tile ? 2 : 1) * sums + ring(rows) * strip_bytes;
  }
};

// Few rows: more threads to each, so that every slot of a block has four. Many rows of which a tile
// is kept: fewer, so that it fits; 64 bytes of a row, and no less, are still one piece of memory.
// Where that is not enough, fewer strips are asked for ahead.
template <class T, bool with_variance>
Cut cut_of(std::int64_t rows, bool aligned, bool keeps_tile) {
  Cut cut = {aligned, keeps_tile, warp_threads, aligned ? most_ahead : 0};
  while (cut.lanes < moments_threads && rows * cut.lanes <= moments_threads * rows_together / 2)
    cut.lanes *= 2;
  const auto bytes = [&] { return cut.shared_bytes<T, with_variance>(rows); };
  while (keeps_tile && cut.lanes > 4 && bytes() > half_of_shared) cut.lanes /= 2;
  while (cut.ahead > 0 && bytes() > most_shared) --cut.ahead;
  return cut;
}

// How the rows and columns of one matrix are cut.
struct Plan {
  std::int64_t groups;
  std::int64_t rows_per_group;
  bool products_at_once;  // in the same read
  Cut cut;
  std::int64_t tiles;
  std::int64_t shared;
};

template <class T, bool with_variance>
Plan plan_of(const BatchMomentsArgs& args) {
  Plan plan{};
  plan.groups = divide_up(args.samples, group_rows);
  plan.rows_per_group = divide_up(args.samples, plan.groups);
  plan.products_at_once = args.inner_products != nullptr && plan.groups == 1;
  const bool aligned = rows_are_aligned<T>(args.grads, args.samples, args.row_stride);
  plan.cut = cut_of<T, with_variance>(plan.rows_per_group, aligned, plan.products_at_once);
  plan.tiles = std::max<std::int64_t>(1, divide_up(args.features, plan.cut.lanes * Chunk<T>::size));
  plan.shared = plan.cut.shared_bytes<T, with_variance>(plan.rows_per_group);
  return plan;
}

// One call for elements of type T.
template <class T>
class Moments {
 public:
  Moments(const BatchMomentsArgs& args, const Call& call, const Allocate& allocate)
      : args_(args),
        call_(call),
        allocate_(allocate),
        plan_(args.variance ? plan_of<T, true>(args) : plan_of<T, false>(args)) {}

  void run() const {
    const bool aligned = plan_.cut.aligned;
    if (args_.variance)
      aligned ? run<true, true>() : run<true, false>();
    else
      aligned ? run<false, true>() : run<false, false>();
  }

 private:
  template <bool with_variance, bool aligned>
  void run() const {
    const std::int64_t shared = plan_.shared;
    const auto kernel = plan_.products_at_once ? moments_kernel<T, with_variance, true, aligned>
                                               : moments_kernel<T, with_variance, false, aligned>;
    const std::int64_t resident = call_.resident_blocks(kernel, moments_threads, shared);
    const std::int64_t parts =
        std::min(plan_.tiles, std::max<std::int64_t>(1, resident / plan_.groups));
    Matrix<T> matrix = this->matrix();
    const Columns<T> columns = this->columns();
    Columns<T> group_columns = columns;

    const std::int64_t partials = parts * args_.samples;
    const std::int64_t stride = plan_.groups > 1 ? round_up(args_.features, 4) : 0;
    const std::int64_t group_floats = plan_.groups * stride * (with_variance ? 2 : 1);
    const bool products = args_.inner_products != nullptr;
    auto* const workspace = static_cast<double*>(
        allocate_(round_up(partials * (products ? 2 : 1), 2) * 8 + group_floats * 4));
    matrix.norm_partials = workspace;
    matrix.product_partials = products ? workspace + partials : nullptr;
    if (plan_.groups > 1) {
      auto* const floats =
          reinterpret_cast<float*>(workspace + round_up(partials * (products ? 2 : 1), 2));
      group_columns = {floats,  with_variance ? floats + plan_.groups * stride : nullptr,
                       stride,  nullptr,
                       nullptr, columns.rule};
    }
    call_.launch(kernel, blocks(parts, plan_.groups), moments_threads, shared, matrix,
                 group_columns);
    if (plan_.groups > 1) merge_groups<with_variance>(matrix, group_columns, columns);
    if (products && !plan_.products_at_once) launch_products<aligned>(matrix, parts);
    sum_partials(call_, matrix.norm_partials, parts, args_.samples, args_.sq_norms);
    if (products)
      sum_partials(call_, matrix.product_partials, parts, args_.samples, args_.inner_products);
  }

  Matrix<T> matrix() const {
    return {static_cast<const T*>(args_.grads),
            args_.samples,
            args_.features,
            args_.row_stride,
            plan_.rows_per_group,
            plan_.cut.lanes,
            plan_.cut.ahead,
            static_cast<int>(plan_.cut.ring(plan_.rows_per_group)),
            nullptr,
            nullptr};
  }
  Columns<T> columns() const {
    return {args_.mean,
            args_.variance,
            0,
            static_cast<T*>(args_.param),
            static_cast<T*>(args_.state_sum),
            AdagradRule(args_.scalars)};
  }
  template <bool with_variance>
  void merge_groups(const Matrix<T>& matrix, const Columns<T>& groups,
                    const Columns<T>& columns) const {
    const std::int64_t count = divide_up(args_.features, moments_threads * Chunk<T>::size);
    if (count > 0)
      call_.launch(merge_groups_kernel<T, with_variance>, blocks(count), moments_threads, 0, matrix,
                   groups, columns);
  }
  template <bool aligned>
  void launch_products(const Matrix<T>& matrix, std::int64_t parts) const {
    const int rows = static_cast<int>(plan_.rows_per_group);
    const std::int64_t shared = RowTotals::numbers(rows, plan_.cut.lanes) * std::int64_t{8} +
                                plan_.cut.ring(rows) * strip_bytes;
    call_.launch(products_kernel<T, aligned>, blocks(parts, plan_.groups), moments_threads, shared,
                 matrix, static_cast<const float*>(args_.mean));
  }

  const BatchMomentsArgs& args_;
  const Call& call_;
  const Allocate& allocate_;
  Plan plan_;
};

}  // namespace

void batch_moments(const BatchMomentsArgs& args, const Stream& stream, const Allocate& allocate) {
  const char* const op = args.param ? "batch_adagrad_step_" : "batch_moments";
  const Call call(op, stream);
  constexpr std::int64_t most_groups = 65'535;  // the limit of a grid's second dimension
  if (divide_up(args.samples, group_rows) > most_groups)
    throw Error(std::string(op) + ": G has " + std::to_string(args.samples) +
                " rows; accepted are at most " + std::to_string(most_groups * group_rows));
  switch (args.type) {
    case ElementType::float32:
      return Moments<float>(args, call, allocate).run();
    case ElementType::bfloat16:
      return Moments<__nv_bfloat16>(args, call, allocate).run();
    case ElementType::float16:
      return Moments<__half>(args, call, allocate).run();
    case ElementType::float64:
      break;
  }
  throw Error("batch_moments: float64 has no CUDA kernel; accepted are the narrower types");
}

}  // namespace adak::cuda
