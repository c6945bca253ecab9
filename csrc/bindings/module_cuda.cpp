// Python's view of the CUDA kernels: addresses and numbers in; results lie on the device when the
// stream gets there. The caller has checked that every address is that of enough elements of the
// type it names, on the device it names, and allocates what the kernels need meanwhile.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/tensor_lists.h"
#include "kernels_cuda.h"

namespace py = pybind11;
namespace cuda = adak::cuda;
using adak::AdagradScalars;
using adak::bindings::Address;
using adak::bindings::element_type;
using adak::bindings::pointer;
using adak::bindings::Update;

namespace {

// A call's device, its stream's handle, and what gives it memory.
using Place = std::tuple<int, Address, std::function<Address(std::int64_t)>>;

cuda::Stream stream_of(const Place& place) {
  return {std::get<0>(place), pointer(std::get<1>(place))};
}
cuda::Allocate allocate_of(const Place& place) {
  return [&give = std::get<2>(place)](std::int64_t bytes) { return pointer(give(bytes)); };
}

// Addresses of lr, grad_scale and found_inf on the device; 0: the host's value.
using DeviceAddresses = std::tuple<Address, Address, Address>;

cuda::DeviceScalars device_scalars(const DeviceAddresses& addresses) {
  const auto& [lr, grad_scale, found_inf] = addresses;
  return {pointer<const double>(lr), pointer<const double>(grad_scale),
          pointer<const float>(found_inf)};
}

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

// Sizes are rows, features, the row stride and the rows before; outputs sum, squares and norms.
void accumulate_moments(Address chunk, int type, const std::array<std::int64_t, 4>& sizes,
                        const std::array<Address, 3>& outputs, const Place& place) {
  cuda::accumulate_moments(
      {pointer(chunk), element_type(type), sizes[0], sizes[1], sizes[2], sizes[3],
       pointer<float>(outputs[0]), pointer<float>(outputs[1]), pointer<double>(outputs[2])},
      stream_of(place), allocate_of(place));
}

// The host's scalars of an update, in the order of AdagradScalars.
using Scalars = std::tuple<double, double, double, double, bool>;

cuda::UpdateArgs update_args(const Update& update, const Scalars& scalars,
                             const DeviceAddresses& addresses, Address sq_norm) {
  const auto& [lr, eps, weight_decay, grad_scale, maximize] = scalars;
  return {update.tensors.data(), static_cast<std::int64_t>(update.tensors.size()),
          AdagradScalars{lr, eps, weight_decay, grad_scale, maximize}, device_scalars(addresses),
          pointer<double>(sq_norm)};
}

void adagrad_step(const Update& update, const Scalars& scalars, const DeviceAddresses& addresses,
                  Address sq_norm, const Place& place) {
  cuda::adagrad_step(update_args(update, scalars, addresses, sq_norm), stream_of(place),
                     allocate_of(place));
}

void adagrad_norm_step(const Update& update, const Scalars& scalars,
                       const DeviceAddresses& addresses, Address sq_norm, const Place& place) {
  cuda::adagrad_norm_step(update_args(update, scalars, addresses, sq_norm), update.shared,
                          stream_of(place), allocate_of(place));
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA kernels for tensors on a GPU; addresses in, nothing checked.";
  // Local: two builds of this module in one process have an error type each.
  py::register_local_exception<cuda::Error>(m, "CudaError", PyExc_RuntimeError);
  m.def("batch_moments", &batch_moments);
  m.def("batch_adagrad_step", &batch_adagrad_step);
  m.def("accumulate_moments", &accumulate_moments);
  adak::bindings::add_tensor_lists(m);
  m.def("adagrad_step", &adagrad_step);
  m.def("adagrad_norm_step", &adagrad_norm_step);
  m.def("runtime_info", [] {
    const cuda::RuntimeInfo info = cuda::runtime_info();
    return std::tuple(info.compiled_for, info.driver, info.devices, info.error);
  });
  m.def("obstacle", &cuda::obstacle);
  m.def("compute_capability", [](int device) {
    const cuda::DeviceInfo info = cuda::device_info(device);
    return std::tuple(info.major, info.minor);
  });
}
