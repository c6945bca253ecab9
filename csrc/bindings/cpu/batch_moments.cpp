#include "contracts/batch_moments.h"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <new>

#include "bindings/arguments.h"
#include "bindings/binding.h"

namespace adak::bindings {
namespace {

struct Moments {
  Address grads;
  int type;
  std::int64_t samples;
  std::int64_t features;
  std::int64_t row_stride;
  Address mean;
  Address variance;
  Address sq_norms;
  Address inner_products;
};

void run_moments(const Moments& m, Address param, Address state_sum, const AdagradScalars& scalars,
                 int threads) {
  cpu::BatchMomentsArgs args{pointer(m.grads),
                             element_type(m.type),
                             m.samples,
                             m.features,
                             m.row_stride,
                             pointer(m.mean),
                             pointer(m.variance),
                             pointer<double>(m.sq_norms),
                             pointer<double>(m.inner_products),
                             pointer(param),
                             pointer(state_sum),
                             scalars,
                             nullptr,
                             threads};
  pybind11::gil_scoped_release release;
  constexpr std::align_val_t alignment{64};
  const auto bytes = static_cast<std::size_t>(cpu::batch_moments_workspace(args));
  const auto free = [](void* memory) { ::operator delete(memory, alignment); };
  const std::unique_ptr<void, decltype(free)> workspace(::operator new(bytes, alignment), free);
  args.workspace = workspace.get();
  cpu::batch_moments(args);
}

void batch_moments(Address grads, int type, std::int64_t samples, std::int64_t features,
                   std::int64_t row_stride, Address mean, Address variance, Address sq_norms,
                   Address inner_products, int threads) {
  run_moments(
      {grads, type, samples, features, row_stride, mean, variance, sq_norms, inner_products}, 0, 0,
      {}, threads);
}

void batch_adagrad_step(Address param, Address state_sum, Address grads, int type,
                        std::int64_t samples, std::int64_t features, std::int64_t row_stride,
                        Address mean, Address variance, Address sq_norms, Address inner_products,
                        double lr, double eps, double weight_decay, bool maximize, int threads) {
  run_moments(
      {grads, type, samples, features, row_stride, mean, variance, sq_norms, inner_products}, param,
      state_sum, {lr, eps, weight_decay, 1.0, maximize}, threads);
}

const Binding batch_moments_binding([](pybind11::module_& m) {
  m.def("batch_moments", &batch_moments);
  m.def("batch_adagrad_step", &batch_adagrad_step);
});

}  // namespace
}  // namespace adak::bindings
