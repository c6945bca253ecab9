// The contract between kernels and whoever calls them: plain types, one struct of arguments and one
// function for each op. Nothing here knows of tensors or of Python.
//
// Pointers are to elements of the named type; "sum type" is float for float, bfloat16 and float16
// elements, and double for double. Nothing is allocated inside: workspaces are passed in.
#pragma once

#include <cstdint>

namespace adak {

enum class ElementType : int { float32 = 0, bfloat16 = 1, float16 = 2, float64 = 3 };
inline constexpr int element_types = 4;
constexpr std::int64_t element_bytes(ElementType type) {
  constexpr std::int64_t bytes[element_types] = {4, 2, 2, 8};
  return bytes[static_cast<int>(type)];
}

// The scalars of an AdaGrad update: with d = sign * grad / grad_scale + weight_decay * param,
// sum += d^2 and param -= lr * d / (sqrt(sum) + eps).
struct AdagradScalars {
  double lr;
  double eps;
  double weight_decay;
  double grad_scale;
  bool maximize;
};

// One tensor of an update; pointers are those of the device where it runs.
struct UpdatedTensor {
  void* param;
  const void* grad;
  void* accumulator;  // AdaGrad: like param; AdaGrad-Norm: double, one for each row
  std::int64_t size;
  std::int64_t rows;
  ElementType type;
};

namespace cpu {

// mean, variance, squared norms and inner products with the mean of the rows of G, and optionally
// an AdaGrad update along the mean.
struct BatchMomentsArgs {
  const void* grads;  // [samples, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t samples;
  std::int64_t features;
  std::int64_t row_stride;
  void* mean;              // [features], sum type
  void* variance;          // [features], sum type; null: not measured
  double* sq_norms;        // [samples]
  double* inner_products;  // [samples]; null: not measured
  void* param;             // [features]; null: no update
  void* state_sum;         // [features]
  AdagradScalars scalars;
  void* workspace;  // batch_moments_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t batch_moments_workspace(const BatchMomentsArgs& args);
void batch_moments(const BatchMomentsArgs& args);

// A chunk of rows added to the running sum and squared deviations of the rows before it.
struct AccumulateMomentsArgs {
  const void* chunk;  // [rows, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t rows;
  std::int64_t features;
  std::int64_t row_stride;
  std::int64_t samples;  // rows before it; 0: sum and squares are overwritten
  void* sum;             // [features], sum type
  void* squares;         // [features], sum type; null: not measured
  double* sq_norms;      // [rows]
  void* workspace;       // accumulate_moments_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t accumulate_moments_workspace(const AccumulateMomentsArgs& args);
void accumulate_moments(const AccumulateMomentsArgs& args);

struct UpdateArgs {
  const UpdatedTensor* tensors;
  std::int64_t count;
  AdagradScalars scalars;
  double* workspace;  // update_workspace() doubles
  int threads;
};
std::int64_t update_workspace(const UpdateArgs& args);

// Both return the squared norm of grad / grad_scale over all tensors.
double adagrad_step(const UpdateArgs& args);
// `shared` is the one accumulator of all tensors; null: one for each row of each tensor.
double adagrad_norm_step(const UpdateArgs& args, double* shared);

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

// squares = max(0, squares - scale * grad^2).
struct SubtractSquare {
  const void* grad;  // [size], float or double
  void* squares;
  std::int64_t size;
  double scale;
};
struct SubtractSquareArgs {
  SubtractSquare values;
  ElementType type;
  int threads;
};
void subtract_square(const SubtractSquareArgs& args);

// Reads `bytes` bytes once and returns a sum of them: the floor that benchmarks measure against.
double stream_read(const void* data, std::int64_t bytes, int threads);

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

// Weight gradient and statistics of an embedding. Strides are in elements.
struct EmbeddingMomentsArgs {
  const std::int64_t* indices;  // [samples, positions], each from 0 to rows - 1
  const void* grad_outputs;     // [samples, positions, features], features adjacent
  ElementType type;
  std::int64_t samples;
  std::int64_t positions;
  std::int64_t features;
  std::int64_t sample_stride;
  std::int64_t position_stride;
  std::int64_t rows;
  std::int64_t padding_idx;  // a row without gradient; -1: none
  void* grad;                // [rows, features], sum type
  void* variance;            // [rows, features], sum type; null: not measured
  double* sq_norms;          // [samples]
  double* inner_products;    // [samples]; null: not measured
  void* workspace;           // embedding_moments_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t embedding_moments_workspace(const EmbeddingMomentsArgs& args);
void embedding_moments(const EmbeddingMomentsArgs& args);

// A step along the aggregate of sparse per-sample gradients. Of a coordinate j that n_j samples
// touch, with sum_j of their gradients' entries,
//     d = (sum_j + n_j (offset_j + ridge / probability_j * param_j)) / divisor,
// param_j -= lr * d, or with state_sum AdaGrad's rule along d. Other coordinates are not looked at.
struct SparseMeanRule {
  void* param;                // [features]
  void* state_sum;            // [features]; null: no AdaGrad
  const void* offset;         // [features], sum type; null: zeros
  const void* probabilities;  // [features], sum type; null: no ridge
  double lr;
  double eps;
  double ridge;
  double divisor;  // 0: n_j
};

// Rows of samples: n_j are the samples whose entry j is not zero.
struct SparseMeanDenseArgs {
  const void* grads;  // [samples, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t samples;
  std::int64_t features;
  std::int64_t row_stride;
  SparseMeanRule rule;
  void* workspace;  // sparse_mean_dense_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t sparse_mean_dense_workspace(const SparseMeanDenseArgs& args);
// Returns the squared norm of d, as does the next.
double sparse_mean_dense_step(const SparseMeanDenseArgs& args);

// Stored entries: n_j are the samples that have an entry at j, whatever its value. Entries of one
// sample at the same column add up, and count once. At most 2^30 entries, 2^32 - 1 samples
// and 2^32 features.
struct SparseMeanCsrArgs {
  const void* row_starts;  // [samples + 1], ascending from 0 to entries
  const void* columns;     // [entries], each from 0 to features - 1
  bool wide_indices;       // of both: int64, else int32
  const void* values;      // [entries]
  ElementType type;
  std::int64_t samples;
  std::int64_t entries;
  std::int64_t features;
  SparseMeanRule rule;
  void* workspace;  // sparse_mean_csr_workspace() bytes, aligned to 64
  int threads;
};
std::int64_t sparse_mean_csr_workspace(const SparseMeanCsrArgs& args);
// False, and nothing written, where row starts do not ascend so or a column is outside.
bool sparse_mean_csr_step(const SparseMeanCsrArgs& args, double* sq_norm);

// Of each processor from the narrowest to the widest; which are compiled in depends on the target.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, neon = 3 };
inline constexpr int isa_count = 4;
const char* isa_name(Isa isa);
bool isa_compiled(Isa isa);
bool isa_supported(Isa isa);
Isa active_isa();
void use_isa(Isa isa);

// Shares the OpenMP runtime that `library`, already loaded in this process, calls itself; false if
// it calls none. Without one, kernels run on the calling thread alone.
bool use_openmp(const char* library);

}  // namespace cpu
}  // namespace adak
