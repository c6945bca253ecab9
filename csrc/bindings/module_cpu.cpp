// Python's view of the CPU kernels: addresses and numbers in, numbers out. The caller has checked
// that every address is that of enough elements of the type it names; the GIL is not held
// meanwhile.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/conv_moments_cpu.h"
#include "bindings/row_layers_cpu.h"
#include "bindings/sparse_mean_cpu.h"
#include "bindings/tensor_lists.h"
#include "bindings/workspace.h"
#include "kernels.h"

namespace py = pybind11;
namespace cpu = adak::cpu;
using adak::AdagradScalars;
using adak::bindings::Address;
using adak::bindings::element_type;
using adak::bindings::pointer;
using adak::bindings::Update;

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
  py::gil_scoped_release release;
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

// Sizes are rows, features, the row stride and the rows before; outputs sum, squares and norms.
void accumulate_moments(Address chunk, int type, const std::array<std::int64_t, 4>& sizes,
                        const std::array<Address, 3>& outputs, int threads) {
  cpu::AccumulateMomentsArgs args{pointer(chunk),
                                  element_type(type),
                                  sizes[0],
                                  sizes[1],
                                  sizes[2],
                                  sizes[3],
                                  pointer(outputs[0]),
                                  pointer(outputs[1]),
                                  pointer<double>(outputs[2]),
                                  nullptr,
                                  threads};
  py::gil_scoped_release release;
  const adak::bindings::Workspace workspace(cpu::accumulate_moments_workspace(args));
  args.workspace = workspace.get();
  cpu::accumulate_moments(args);
}

template <class Step>
double run_update(const Update& update, const AdagradScalars& scalars, int threads, Step&& step) {
  py::gil_scoped_release release;
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

void subtract_square(Address grad, Address squares, int type, std::int64_t size, double scale,
                     int threads) {
  cpu::subtract_square(
      {{pointer(grad), pointer(squares), size, scale}, element_type(type), threads});
}

std::vector<std::string> isas(bool (*holds)(cpu::Isa)) {
  std::vector<std::string> names;
  for (int i = 0; i < cpu::isa_count; ++i)
    if (holds(static_cast<cpu::Isa>(i)))
      names.emplace_back(cpu::isa_name(static_cast<cpu::Isa>(i)));
  return names;
}

void use_isa(const std::string& name) {
  for (int i = 0; i < cpu::isa_count; ++i) {
    const auto isa = static_cast<cpu::Isa>(i);
    if (name == cpu::isa_name(isa) && cpu::isa_supported(isa)) return cpu::use_isa(isa);
  }
  throw std::invalid_argument("the instruction set '" + name + "' is not supported here");
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "C++ kernels for CPU tensors; addresses in, nothing checked.";
  m.def("batch_moments", &batch_moments);
  m.def("batch_adagrad_step", &batch_adagrad_step);
  m.def("accumulate_moments", &accumulate_moments);
  adak::bindings::add_tensor_lists(m);
  m.def("adagrad_step", &adagrad_step);
  m.def("adagrad_norm_step", &adagrad_norm_step);
  adak::bindings::add_conv_moments(m);
  adak::bindings::add_row_layers(m);
  adak::bindings::add_sparse_mean(m);
  m.def("subtract_square", &subtract_square, py::call_guard<py::gil_scoped_release>());
  m.def(
      "stream_read",
      [](Address data, std::int64_t bytes, int threads) {
        return cpu::stream_read(pointer(data), bytes, threads);
      },
      py::call_guard<py::gil_scoped_release>());
  m.def("compiled_isas", [] { return isas(&cpu::isa_compiled); });
  m.def("supported_isas", [] { return isas(&cpu::isa_supported); });
  m.def("active_isa", [] { return std::string(cpu::isa_name(cpu::active_isa())); });
  m.def("use_isa", &use_isa);
  m.def("use_openmp", [](const std::string& library) { return cpu::use_openmp(library.c_str()); });
}
