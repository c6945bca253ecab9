// Moments of embeddings.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

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

// What an instruction set provides.

// `columns` features of all the rows that looked one index up, in the order of their samples.
inline constexpr std::int64_t embedding_columns = 256;  // at most
struct EmbeddingRun {
  const void* grad_outputs;
  const std::int64_t* offsets;  // [positions], of rows in grad_outputs, in elements
  const std::int64_t* samples;  // [positions], ascending
  std::int64_t positions;
  std::int64_t columns;
  std::int64_t batch;      // samples in all
  void* grad;              // [columns], sum type
  void* variance;          // [columns], sum type, or null
  double* sq_norms;        // [batch], added to
  double* inner_products;  // [batch], added to, or null
};

struct EmbeddingLoops {
  void (*run[element_types])(const EmbeddingRun&);
};
ADAK_LOOPS(EmbeddingLoops, embedding_loops)

}  // namespace cpu
}  // namespace adak
