#include "contracts/norm_layer_moments.h"

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"
#include "bindings/cpu/workspace.h"

namespace adak::bindings {
namespace {

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

const Binding norm_layer_moments_binding([](pybind11::module_& m) {
  m.def("norm_layer_moments", &norm_layer_moments);
});

}  // namespace
}  // namespace adak::bindings
