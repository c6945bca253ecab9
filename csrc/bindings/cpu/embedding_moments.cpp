#include "contracts/embedding_moments.h"

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"
#include "bindings/cpu/workspace.h"

namespace adak::bindings {
namespace {

void embedding_moments(Address indices, Address grad_outputs, int type, std::int64_t samples,
                       std::int64_t positions, std::int64_t features, std::int64_t sample_stride,
                       std::int64_t position_stride, std::int64_t rows, std::int64_t padding_idx,
                       Address grad, Address variance, Address sq_norms, Address inner_products,
                       int threads) {
  cpu::EmbeddingMomentsArgs args{pointer<std::int64_t>(indices),
                                 pointer(grad_outputs),
                                 element_type(type),
                                 samples,
                                 positions,
                                 features,
                                 sample_stride,
                                 position_stride,
                                 rows,
                                 padding_idx,
                                 pointer(grad),
                                 pointer(variance),
                                 pointer<double>(sq_norms),
                                 pointer<double>(inner_products),
                                 nullptr,
                                 threads};
  run(args, &cpu::embedding_moments_workspace, &cpu::embedding_moments);
}

const Binding embedding_moments_binding([](pybind11::module_& m) {
  m.def("embedding_moments", &embedding_moments);
});

}  // namespace
}  // namespace adak::bindings
