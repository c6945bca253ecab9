// Python's view of the CPU kernels: addresses and numbers in, numbers out. The caller has checked
// that every address is that of enough elements of the type it names; the GIL is not held
// meanwhile.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/binding.h"
#include "bindings/tensor_lists.h"
#include "kernels.h"

namespace py = pybind11;
namespace cpu = adak::cpu;

namespace {

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
  adak::bindings::add_tensor_lists(m);
  adak::bindings::Binding::add_all(m);
  m.def("compiled_isas", [] { return isas(&cpu::isa_compiled); });
  m.def("supported_isas", [] { return isas(&cpu::isa_supported); });
  m.def("active_isa", [] { return std::string(cpu::isa_name(cpu::active_isa())); });
  m.def("use_isa", &use_isa);
  m.def("use_openmp", [](const std::string& library) { return cpu::use_openmp(library.c_str()); });
}
