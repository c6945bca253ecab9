#include "contracts/updates.h"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/binding.h"

namespace adak::bindings {
namespace {

template <class Step>
double run_update(const Update& update, const AdagradScalars& scalars, int threads, Step&& step) {
  pybind11::gil_scoped_release release;
  cpu::UpdateArgs args{update.tensors.data(), static_cast<std::int64_t>(update.tensors.size()),
                       scalars, nullptr, threads};
  std::vector<double> workspace(static_cast<std::size_t>(cpu::update_workspace(args)));
  args.workspace = workspace.data();
  return step(args);
}

double adagrad_step(const Update& update, double lr, double eps, double weight_decay, bool maximize,
                    double grad_scale, int threads) {
  return run_update(update, {lr, eps, weight_decay, grad_scale, maximize}, threads,
                    [](const cpu::UpdateArgs& args) { return cpu::adagrad_step(args); });
}

double adagrad_norm_step(const Update& update, double lr, double eps, double weight_decay,
                         bool maximize, double grad_scale, int threads) {
  return run_update(
      update, {lr, eps, weight_decay, grad_scale, maximize}, threads,
      [&](const cpu::UpdateArgs& args) { return cpu::adagrad_norm_step(args, update.shared); });
}

const Binding updates_binding([](pybind11::module_& m) {
  m.def("adagrad_step", &adagrad_step);
  m.def("adagrad_norm_step", &adagrad_norm_step);
});

}  // namespace
}  // namespace adak::bindings
