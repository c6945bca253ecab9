// Moments of normalisations.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// Gradient and statistics of the scale and shift of a normalisation. Strides are in elements.
struct NormLayerMomentsArgs {
  const void* inputs;        // [samples, positions, features]
  const void* grad_outputs;  // likewise
  ElementType type;
  std::int64_t samples;
  std::int64_t positions;
  std::int64_t features;
  bool positions_adjacent;  // else features are; the stride of the other is in *_stride
  std::int64_t input_sample_stride;
  std::int64_t input_stride;
  std::int64_t grad_sample_stride;
  std::int64_t grad_stride;
  bool by_feature;         // statistics are [samples, features], else [samples, positions];
  const void* mean;        // adjacent positions need the former. Sum type; null: zeros
  const void* rstd;        // sum type
  void* scale_grad;        // [features], sum type
  void* shift_grad;        // [features], sum type; null: no shift
  double* sq_norms;        // [samples]
  void* scale_variance;    // [features], sum type; null: not measured
  void* shift_variance;    // [features], sum type; null: not measured, or no shift
  double* inner_products;  // [samples]; null: not measured
  void* workspace;         // norm_layer_moments_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t norm_layer_moments_workspace(const NormLayerMomentsArgs& args);
void norm_layer_moments(const NormLayerMomentsArgs& args);

// What an instruction set provides.

// One sample's contributions to the gradients of `columns` features of a normalisation.
inline constexpr std::int64_t norm_columns = 1024;  // at most
struct NormRows {
  const void* inputs;
  const void* grad_outputs;
  std::int64_t input_stride;  // between positions, or between features where positions are adjacent
  std::int64_t grad_stride;
  const void* mean;  // [positions] or [columns], sum type, or null
  const void* rstd;
  std::int64_t positions;
  std::int64_t columns;
  void* scale;  // [columns], sum type
  void* shift;  // [columns], sum type, or null
};

struct NormLayerLoops {
  void (*by_position[element_types])(const NormRows&);
  void (*by_feature[element_types])(const NormRows&);
  void (*planes[element_types])(const NormRows&);
};
ADAK_LOOPS(NormLayerLoops, norm_layer_loops)

}  // namespace cpu
}  // namespace adak
