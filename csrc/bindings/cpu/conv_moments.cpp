#include "contracts/conv_moments.h"

#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"
#include "bindings/cpu/workspace.h"

namespace adak::bindings {
namespace {

using Three = std::array<std::int64_t, 3>;
using Five = std::array<std::int64_t, 5>;
// weight_grad, weight_variance, sq_norms, inner_products, bias_sums
using OutputAddresses = std::array<Address, 5>;

void copy(const Three& from, std::int64_t (&into)[3]) {
  for (std::size_t i = 0; i < 3; ++i) into[i] = from[i];
}

// Sizes are samples, input channels, output channels, groups; then one number each dimension.
void conv_moments(Address inputs, Address grad_outputs, int type,
                  const std::array<std::int64_t, 4>& sizes, const Three& in_size,
                  const Three& out_size, const Three& kernel, const Three& stride,
                  const Three& padding, const Three& dilation, const Five& input_strides,
                  const Five& grad_strides, const OutputAddresses& outputs, int threads) {
  cpu::ConvMomentsArgs args{};
  args.inputs = pointer(inputs);
  args.grad_outputs = pointer(grad_outputs);
  args.type = element_type(type);
  args.samples = sizes[0];
  args.in_channels = sizes[1];
  args.out_channels = sizes[2];
  args.groups = sizes[3];
  copy(in_size, args.in_size);
  copy(out_size, args.out_size);
  copy(kernel, args.kernel);
  copy(stride, args.stride);
  copy(padding, args.padding);
  copy(dilation, args.dilation);
  for (std::size_t i = 0; i < 5; ++i) {
    args.input_stride[i] = input_strides[i];
    args.grad_stride[i] = grad_strides[i];
  }
  args.threads = threads;
  args.weight_grad = pointer(outputs[0]);
  args.weight_variance = pointer(outputs[1]);
  args.sq_norms = pointer<double>(outputs[2]);
  args.inner_products = pointer<double>(outputs[3]);
  args.bias_sums = pointer(outputs[4]);
  run(args, &cpu::conv_moments_workspace, &cpu::conv_moments);
}

const Binding conv_moments_binding([](pybind11::module_& m) {
  m.def("conv_moments", &conv_moments);
});

}  // namespace
}  // namespace adak::bindings
