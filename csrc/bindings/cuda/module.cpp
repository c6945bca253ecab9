// Python's view of the CUDA kernels: addresses and numbers in; results lie on the device when the
// stream gets there. The caller has checked that every address is that of enough elements of the
// type it names, on the device it names, and allocates what the kernels need meanwhile.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

#include "bindings/binding.h"
#include "bindings/tensor_lists.h"
#include "kernels_cuda.h"

namespace py = pybind11;
namespace cuda = adak::cuda;

PYBIND11_MODULE(_C_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA kernels for tensors on a GPU; addresses in, nothing checked.";
  // Local: two builds of this module in one process have an error type each.
  py::register_local_exception<cuda::Error>(m, "CudaError", PyExc_RuntimeError);
  adak::bindings::add_tensor_lists(m);
  adak::bindings::Binding::add_all(m);
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
