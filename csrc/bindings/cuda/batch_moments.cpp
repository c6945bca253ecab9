#include "contracts/batch_moments.h"

#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/binding.h"
#include "bindings/cuda/place.h"

namespace adak::bindings {
namespace {

void batch_moments(Address grads, int type, std::int64_t samples, std::int64_t features,
                   std::int64_t row_stride, Address mean, Address variance, Address sq_norms,
                   Address inner_products, const Place& place) {
  cuda::batch_moments({pointer(grads), element_type(type), samples, features, row_stride,
                       pointer<float>(mean), pointer<float>(variance), pointer<double>(sq_norms),
                       pointer<double>(inner_products), nullptr, nullptr, AdagradScalars{}},
                      stream_of(place), allocate_of(place));
}

void batch_adagrad_step(Address param, Address state_sum, Address grads, int type,
                        std::int64_t samples, std::int64_t features, std::int64_t row_stride,
                        Address mean, Address variance, Address sq_norms, Address inner_products,
                        double lr, double eps, double weight_decay, bool maximize,
                        const Place& place) {
  cuda::batch_moments(
      {pointer(grads), element_type(type), samples, features, row_stride, pointer<float>(mean),
       pointer<float>(variance), pointer<double>(sq_norms), pointer<double>(inner_products),
       pointer(param), pointer(state_sum), AdagradScalars{lr, eps, weight_decay, 1.0, maximize}},
      stream_of(place), allocate_of(place));
}

const Binding batch_moments_binding([](pybind11::module_& m) {
  m.def("batch_moments", &batch_moments);
  m.def("batch_adagrad_step", &batch_adagrad_step);
});

}  // namespace
}  // namespace adak::bindings
