// How a module comes by its functions: each file has a Binding, and the module adds them all.
#pragma once

#include <pybind11/pybind11.h>

namespace adak::bindings {

// At namespace scope, where a file's functions are; what it is given adds them to the module.
class Binding {
 public:
  using Add = void (*)(pybind11::module_& m);
  explicit Binding(Add add) : add_(add), next_(last_) { last_ = this; }
  Binding(const Binding&) = delete;
  Binding& operator=(const Binding&) = delete;

  static void add_all(pybind11::module_& m) {
    for (const Binding* binding = last_; binding != nullptr; binding = binding->next_)
      binding->add_(m);
  }

 private:
  inline static const Binding* last_ = nullptr;
  Add add_;
  const Binding* next_;
};

}  // namespace adak::bindings
