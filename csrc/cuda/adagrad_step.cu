// Launches the kernels of adagrad_step.cuh: one for every table of tensors, and the norm's sum.
#include "cuda/adagrad_step.cuh"
#include "cuda/sum_partials.h"
#include "cuda/tensor_tables.h"

namespace adak::cuda {
namespace {

template <class T>
Tables<T> tables(const UpdateArgs& args, ElementType type, const Call& call) {
  return Tables<T>(args, type, call, adagrad_step_kernel<T>, [](const UpdatedTensor& tensor) {
    return divide_up(tensor.size, piece_elements<T>);
  });
}

template <class T>
void launch(const Tables<T>& tables, const UpdateArgs& args, const Call& call, double* partials,
            std::int64_t before) {
  tables.for_each(before, [&](const TensorTable<T>& table, int count, std::int64_t first) {
    call.launch(adagrad_step_kernel<T>, blocks(count), update_threads, 0, table,
                AdagradRule(args.scalars), static_cast<float>(args.scalars.grad_scale),
                device_values(args.device_scalars), partials + first);
  });
}

}  // namespace

void adagrad_step(const UpdateArgs& args, const Stream& stream, const Allocate& allocate) {
  constexpr const char* op = "adagrad_step_";
  const Call call(op, stream);
  refuse_float64(op, args);
  const auto singles = tables<float>(args, ElementType::float32, call);
  const auto bfloats = tables<__nv_bfloat16>(args, ElementType::bfloat16, call);
  const auto halves = tables<__half>(args, ElementType::float16, call);
  const std::int64_t parts = singles.blocks() + bfloats.blocks() + halves.blocks();
  auto* const partials = static_cast<double*>(allocate(std::max<std::int64_t>(parts, 1) * 8));
  launch(singles, args, call, partials, 0);
  launch(bfloats, args, call, partials, singles.blocks());
  launch(halves, args, call, partials, singles.blocks() + bfloats.blocks());
  sum_partials(call, partials, parts, 1, args.sq_norm);
}

}  // namespace adak::cuda
