#include "contracts/updates.h"

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "bindings/arguments.h"
#include "bindings/binding.h"
#include "bindings/cuda/place.h"

namespace adak::bindings {
namespace {

// Addresses of lr, grad_scale and found_inf on the device; 0: the host's value.
using DeviceAddresses = std::tuple<Address, Address, Address>;

cuda::DeviceScalars device_scalars(const DeviceAddresses& addresses) {
  const auto& [lr, grad_scale, found_inf] = addresses;
  return {pointer<const double>(lr), pointer<const double>(grad_scale),
          pointer<const float>(found_inf)};
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

const Binding updates_binding([](pybind11::module_& m) {
  m.def("adagrad_step", &adagrad_step);
  m.def("adagrad_norm_step", &adagrad_norm_step);
});

}  // namespace
}  // namespace adak::bindings
