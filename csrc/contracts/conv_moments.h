// Moments of convolutions.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "cpu/product_kernels.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// Weight gradient of a convolution, and the norms, inner products and variance of the samples'
// contributions h_i to it: h_i[o, j] = sum_t y_i[o, t] x_i[j, t] over the patches of the input.
// Three spatial dimensions; fewer have leading ones of size one.
struct ConvMomentsArgs {
  const void* inputs;        // [samples, in_channels, spatial] with any strides
  const void* grad_outputs;  // [samples, out_channels, spatial] with any strides
  ElementType type;
  std::int64_t samples;
  std::int64_t in_channels;
  std::int64_t out_channels;
  std::int64_t groups;
  std::int64_t in_size[3];
  std::int64_t out_size[3];
  std::int64_t kernel[3];
  std::int64_t stride[3];
  std::int64_t padding[3];
  std::int64_t dilation[3];
  std::int64_t input_stride[5];  // of the tensors, in elements
  std::int64_t grad_stride[5];
  void* weight_grad;       // [out_channels, in_channels / groups, kernel], sum type
  void* weight_variance;   // the same; null: not measured
  double* sq_norms;        // [samples], of the weight's part
  double* inner_products;  // [samples], likewise; null: not measured
  void* bias_sums;         // [samples, out_channels], sum type; null: not wanted
  void* workspace;         // conv_moments_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t conv_moments_workspace(const ConvMomentsArgs& args);
void conv_moments(const ConvMomentsArgs& args);

// What an instruction set provides: products, for each element type.
struct ConvLoops {
  ProductKernels products[element_types];
};
ADAK_LOOPS(ConvLoops, conv_loops)

}  // namespace cpu
}  // namespace adak
