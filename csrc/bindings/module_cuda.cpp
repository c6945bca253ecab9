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
using adak::UpdatedTensor;
using adak::bindings::Address;
using adak::bindings::element_type;
using adak::bindings::overlaps;
using adak::bindings::pointer;
using adak::bindings::tensors_of;
using adak::bindings::TensorTuple;

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

cuda::UpdateArgs update_args(const std::vector<UpdatedTensor>& tensors, const Scalars& scalars,
                             const DeviceAddresses& addresses, Address sq_norm) {
  const auto& [lr, eps, weight_decay, grad_scale, maximize] = scalars;
  return {tensors.data(), static_cast<std::int64_t>(tensors.size()),
          AdagradScalars{lr, eps, weight_decay, grad_scale, maximize}, device_scalars(addresses),
          pointer<double>(sq_norm)};
}

void adagrad_step(const std::vector<TensorTuple>& tuples, const Scalars& scalars,
                  const DeviceAddresses& addresses, Address sq_norm, const Place& place) {
  const auto tensors = tensors_of(tuples);
  cuda::adagrad_step(update_args(tensors, scalars, addresses, sq_norm), stream_of(place),
                     allocate_of(place));
}

void adagrad_norm_step(const std::vector<TensorTuple>& tuples, Address shared,
                       const Scalars& scalars, const DeviceAddresses& addresses, Address sq_norm,
                       const Place& place) {
  const auto tensors = tensors_of(tuples);
  cuda::adagrad_norm_step(update_args(tensors, scalars, addresses, sq_norm),
                          pointer<double>(shared), stream_of(place), allocate_of(place));
}

adak::bindings::TensorLists& tensor_lists() {
  static adak::bindings::TensorLists lists;
  return lists;
}

// The same for whole lists of tensors on a device of DLPack's type `device_type`; false, and
// nothing done, where they need the checks in Python.
bool adagrad_step_lists(int device_type, const py::list& params, const py::list& grads,
                        const py::list& state_sums, const Scalars& scalars,
                        const DeviceAddresses& addresses, Address sq_norm, const Place& place) {
  std::vector<UpdatedTensor> tensors;
  if (!tensor_lists().read({device_type, std::get<0>(place)}, params, grads, &state_sums, tensors))
    return false;
  cuda::adagrad_step(update_args(tensors, scalars, addresses, sq_norm), stream_of(place),
                     allocate_of(place));
  return true;
}

bool adagrad_norm_step_lists(int device_type, const py::list& params, const py::list& grads,
                             Address shared, const Scalars& scalars,
                             const DeviceAddresses& addresses, Address sq_norm,
                             const Place& place) {
  std::vector<UpdatedTensor> tensors;
  if (!tensor_lists().read({device_type, std::get<0>(place)}, params, grads, nullptr, tensors))
    return false;
  for (const UpdatedTensor& tensor : tensors)
    if (overlaps(tensor, shared)) return false;
  cuda::adagrad_norm_step(update_args(tensors, scalars, addresses, sq_norm),
                          pointer<double>(shared), stream_of(place), allocate_of(place));
  return true;
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA kernels for tensors on a GPU; addresses in, nothing checked.";
  // Local: two builds of this module in one process have an error type each.
  py::register_local_exception<cuda::Error>(m, "CudaError", PyExc_RuntimeError);
  m.def("batch_moments", &batch_moments);
  m.def("batch_adagrad_step", &batch_adagrad_step);
  m.def("accumulate_moments", &accumulate_moments);
  m.def("adagrad_step", &adagrad_step);
  m.def("adagrad_norm_step", &adagrad_norm_step);
  m.def("use_tensor_exchange", [](const py::capsule& capsule, const py::tuple& types) {
    tensor_lists().use(capsule, types);
  });
  m.def("adagrad_step_lists", &adagrad_step_lists);
  m.def("adagrad_norm_step_lists", &adagrad_norm_step_lists);
  m.def("runtime_info", [] {
    const cuda::RuntimeInfo info = cuda::runtime_info();
    return std::tuple(info.compiled_for, info.driver, info.devices, info.error);
  });
  m.def("compute_capability", [](int device) {
    const cuda::DeviceInfo info = cuda::device_info(device);
    return std::tuple(info.major, info.minor);
  });
}
