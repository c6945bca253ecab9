#include "contracts/sparse_mean_step.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "bindings/arguments.h"
#include "bindings/binding.h"
#include "bindings/cpu/workspace.h"

namespace adak::bindings {
namespace {

// Addresses of param, state_sum, offset and probabilities; lr, eps, ridge and divisor.
using Tensors = std::tuple<Address, Address, Address, Address>;
using Scalars = std::tuple<double, double, double, double>;

cpu::SparseMeanRule rule_of(const Tensors& tensors, const Scalars& scalars) {
  const auto& [param, state_sum, offset, probabilities] = tensors;
  const auto& [lr, eps, ridge, divisor] = scalars;
  return {
      pointer(param), pointer(state_sum), pointer(offset), pointer(probabilities), lr, eps, ridge,
      divisor};
}

double sparse_mean_dense_step(Address grads, int type, std::int64_t samples, std::int64_t features,
                              std::int64_t row_stride, const Tensors& tensors,
                              const Scalars& scalars, int threads) {
  cpu::SparseMeanDenseArgs args{pointer(grads), element_type(type),        samples, features,
                                row_stride,     rule_of(tensors, scalars), nullptr, threads};
  return run(args, &cpu::sparse_mean_dense_workspace, &cpu::sparse_mean_dense_step);
}

// None, and nothing written, where indices are not those of a parameter with such features.
std::optional<double> sparse_mean_csr_step(Address row_starts, Address columns, bool wide_indices,
                                           Address values, int type, std::int64_t samples,
                                           std::int64_t entries, std::int64_t features,
                                           const Tensors& tensors, const Scalars& scalars,
                                           int threads) {
  cpu::SparseMeanCsrArgs args{
      pointer(row_starts),       pointer(columns), wide_indices, pointer(values),
      element_type(type),        samples,          entries,      features,
      rule_of(tensors, scalars), nullptr,          threads};
  pybind11::gil_scoped_release release;
  const Workspace workspace(cpu::sparse_mean_csr_workspace(args));
  args.workspace = workspace.get();
  double sq_norm = 0;
  if (!cpu::sparse_mean_csr_step(args, &sq_norm)) return std::nullopt;
  return sq_norm;
}

const Binding sparse_mean_step_binding([](pybind11::module_& m) {
  m.def("sparse_mean_dense_step", &sparse_mean_dense_step);
  m.def("sparse_mean_csr_step", &sparse_mean_csr_step);
});

}  // namespace
}  // namespace adak::bindings
