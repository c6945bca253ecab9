#include "bindings/row_layers_cpu.h"

#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/workspace.h"
#include "kernels.h"

namespace py = pybind11;

namespace adak::bindings {
namespace {

// Runs a kernel with the workspace that it asks for.
template <class Args>
void run(Args& args, std::int64_t (*workspace_bytes)(const Args&), void (*kernel)(const Args&)) {
  py::gil_scoped_release release;
  const Workspace workspace(workspace_bytes(args));
  args.workspace = workspace.get();
  kernel(args);
}

void norm_layer_moments(Address inputs, Address grad_outputs, int type, std::int64_t samples,
                        std::int64_t positions, std::int64_t features, bool positions_adjacent,
                        std::int64_t input_sample_stride, std::int64_t input_stride,
                        std::int64_t grad_sample_stride, std::int64_t grad_stride, bool by_feature,
                        Address mean, Address rstd, Address scale_grad, Address shift_grad,
                        Address sq_norms, Address scale_variance, Address shift_variance,
                        Address inner_products, int threads) {
  cpu::NormLayerMomentsArgs args{pointer(inputs),
                                 pointer(grad_outputs),
                                 element_type(type),
                                 samples,
                                 positions,
                                 features,
                                 positions_adjacent,
                                 input_sample_stride,
                                 input_stride,
                                 grad_sample_stride,
                                 grad_stride,
                                 by_feature,
                                 pointer(mean),
                                 pointer(rstd),
                                 pointer(scale_grad),
                                 pointer(shift_grad),
                                 pointer<double>(sq_norms),
                                 pointer(scale_variance),
                                 pointer(shift_variance),
                                 pointer<double>(inner_products),
                                 nullptr,
                                 threads};
  run(args, &cpu::norm_layer_moments_workspace, &cpu::norm_layer_moments);
}

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

}  // namespace

void add_row_layers(py::module_& m) {
  m.def("norm_layer_moments", &norm_layer_moments);
  m.def("embedding_moments", &embedding_moments);
}

}  // namespace adak::bindings
