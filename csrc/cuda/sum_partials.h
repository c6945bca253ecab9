// The second stage of every reduction, as the launches of all ops call it.
#pragma once

#include "cuda/launch.h"

namespace adak::cuda {

// out[r] = sum over p of partials[p, r], in an order that depends on the numbers alone.
void sum_partials(const Call& call, const double* partials, std::int64_t parts,
                  std::int64_t numbers, double* out);

}  // namespace adak::cuda
