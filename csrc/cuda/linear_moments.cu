// Decides how samples are split among blocks, and launches the kernels of linear_moments.cuh.
#include "cuda/launch.h"
#include "cuda/linear_moments.cuh"
#include "cuda/sum_partials.h"

namespace adak::cuda {
namespace {

// A split has so many positions at least: then its rows of x and y are as many bytes as its sums.
constexpr std::int64_t least_positions = 64;

template <class T>
Sequences<T> sequences_of(const SequencesArgs& args, std::int64_t samples, std::int64_t positions) {
  const auto whole = [](std::int64_t stride) {
    return stride * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
  };
  const bool aligned = reinterpret_cast<std::uintptr_t>(args.values) % 16 == 0 &&
                       (samples == 1 || whole(args.sample_stride)) &&
                       (positions == 1 || whole(args.position_stride));
  // Without positions nothing is read: one position of no features stands for them.
  const std::int64_t features = positions == 0 ? 0 : args.features;
  const std::int64_t length = std::max<std::int64_t>(1, positions);
  constexpr std::int64_t staged = Sequences<T>::staged;
  return {static_cast<const T*>(args.values),
          features,
          args.sample_stride,
          args.position_stride,
          staged / length * args.sample_stride + staged % length * args.position_stride,
          args.sample_stride - length * args.position_stride,
          aligned};
}

// One call for elements of type T.
template <class T>
class LinearMoments {
 public:
  LinearMoments(const LinearMomentsArgs& args, const Call& call, const Allocate& allocate)
      : args_(args),
        call_(call),
        allocate_(allocate),
        out_tiles_(divide_up(args.grads.features, tile_side)),
        in_tiles_(std::max<std::int64_t>(1, divide_up(args.inputs.features, tile_side))) {}

  void run() const {
    if (args_.weight_variance || args_.bias_variance)
      run<true>();
    else
      run<false>();
  }

 private:
  template <bool with_variance>
  void run() const {
    const auto kernel = linear_moments_kernel<T, with_variance>;
    const std::int64_t tiles = out_tiles_ * in_tiles_;
    const std::int64_t resident = call_.resident_blocks(kernel, linear_threads, 0);
    const std::int64_t per_split = samples_per_split(tiles, resident);
    const std::int64_t splits = divide_up(args_.samples, per_split);
    const std::int64_t partials = round_up(tiles * args_.samples, 2);
    const std::int64_t weights = args_.grads.features * args_.inputs.features;
    const std::int64_t biases = args_.bias_grad ? args_.grads.features : 0;
    const std::int64_t stride = round_up(weights, 4) + round_up(biases, 4);
    const std::int64_t floats = splits > 1 ? splits * stride * (with_variance ? 2 : 1) : 0;
    const bool products = args_.inner_products != nullptr;
    auto* const workspace =
        static_cast<double*>(allocate_(partials * (products ? 2 : 1) * 8 + floats * 4));

    LinearLayer<T> layer = this->layer(per_split);
    layer.partials = workspace;
    LinearSums sums = {args_.weight_grad,
                       args_.weight_variance,
                       0,
                       args_.bias_grad,
                       args_.bias_variance,
                       0,
                       static_cast<float>(args_.samples - 1)};
    if (splits > 1) {
      auto* const of_splits = reinterpret_cast<float*>(workspace + partials * (products ? 2 : 1));
      float* const spreads = with_variance ? of_splits + splits * stride : nullptr;
      const std::int64_t to_bias = round_up(weights, 4);
      sums = {of_splits,
              spreads,
              stride,
              of_splits + to_bias,
              with_variance ? spreads + to_bias : nullptr,
              stride,
              1.0f};
    }
    if (tiles > 0) call_.launch(kernel, blocks(tiles, splits), linear_threads, 0, layer, sums);
    sum_partials(call_, layer.partials, tiles, args_.samples, args_.sq_norms);
    if (splits > 1) {
      merge<with_variance>(
          {sums.weight, sums.weight_spread, stride, weights, args_.samples, per_split},
          args_.weight_grad, args_.weight_variance);
      merge<with_variance>({sums.bias, sums.bias_spread, stride, biases, args_.samples, per_split},
                           args_.bias_grad, args_.bias_variance);
    }
    if (!products) return;
    layer.partials = workspace + partials;
    if (tiles > 0)
      call_.launch(linear_products_kernel<T>, blocks(tiles, splits), linear_threads, 0, layer,
                   static_cast<const float*>(args_.weight_grad),
                   static_cast<const float*>(args_.bias_grad));
    sum_partials(call_, layer.partials, tiles, args_.samples, args_.inner_products);
  }

  // As many blocks as the device holds, and none with little to do.
  std::int64_t samples_per_split(std::int64_t tiles, std::int64_t resident) const {
    constexpr std::int64_t most_splits = 65'535;  // the limit of a grid's second dimension
    const std::int64_t wanted = std::min(most_splits, resident / std::max<std::int64_t>(1, tiles));
    const std::int64_t least =
        divide_up(least_positions, std::max<std::int64_t>(1, args_.positions));
    return std::max(least, divide_up(args_.samples, std::max<std::int64_t>(1, wanted)));
  }

  LinearLayer<T> layer(std::int64_t per_split) const {
    return {sequences_of<T>(args_.inputs, args_.samples, args_.positions),
            sequences_of<T>(args_.grads, args_.samples, args_.positions),
            args_.samples,
            std::max<std::int64_t>(1, args_.positions),
            Sequences<T>::staged % std::max<std::int64_t>(1, args_.positions),
            per_split,
            args_.inputs.features,
            args_.grads.features,
            static_cast<unsigned>(in_tiles_),
            args_.bias_grad != nullptr,
            nullptr};
  }

  template <bool with_variance>
  void merge(const LinearSplits& splits, float* sums, float* variance) const {
    const std::int64_t count = divide_up(splits.count, linear_threads * patch);
    if (count > 0)
      call_.launch(linear_merge_kernel<with_variance>, blocks(count), linear_threads, 0, splits,
                   sums, variance);
  }

  const LinearMomentsArgs& args_;
  const Call& call_;
  const Allocate& allocate_;
  std::int64_t out_tiles_;
  std::int64_t in_tiles_;
};

}  // namespace

void linear_moments(const LinearMomentsArgs& args, const Stream& stream, const Allocate& allocate) {
  const Call call("linear_moments", stream);
  switch (args.type) {
    case ElementType::float32:
      return LinearMoments<float>(args, call, allocate).run();
    case ElementType::bfloat16:
      return LinearMoments<__nv_bfloat16>(args, call, allocate).run();
    case ElementType::float16:
      return LinearMoments<__half>(args, call, allocate).run();
    case ElementType::float64:
      break;
  }
  throw Error("linear_moments: float64 has no CUDA kernel; accepted are the narrower types");
}

}  // namespace adak::cuda
