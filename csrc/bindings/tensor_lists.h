// Many tensors at the price of few: reads addresses, shapes and types of whole lists through
// DLPack's C exchange interface, which torch offers since 2.10, instead of a dozen Python calls for
// each tensor. Whatever is not plainly right is left to the checks in Python, which say why.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "bindings/arguments.h"
#include "kernels.h"

namespace adak::bindings {

// DLPack's binary interface, version 1: the parts that are read here.
namespace dlpack {

struct Version {
  std::uint32_t major;
  std::uint32_t minor;
};
struct Tensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t dimensions;
  std::uint8_t type_code;  // 2: float, 4: bfloat16
  std::uint8_t bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct Exchange {
  Version version;
  void* previous;
  void* allocator;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);
  void* current_stream;
};

}  // namespace dlpack

// As DLPack counts them.
struct Device {
  std::int32_t type;  // 1: CPU, 2: CUDA
  std::int32_t index;
};

// A method without arguments, or an attribute, that a class written in C answers with True or
// False; asked by its C function, since Python's way to it takes as long as the answer.
class Question {
 public:
  // Takes what the class's dictionary holds; false where that is not written in C.
  bool use(PyObject* descriptor) {
    if (Py_TYPE(descriptor) == &PyMethodDescr_Type) {
      const PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(descriptor)->d_method;
      method_ = method->ml_flags == METH_NOARGS ? method->ml_meth : nullptr;
    } else if (Py_TYPE(descriptor) == &PyGetSetDescr_Type) {
      attribute_ = reinterpret_cast<PyGetSetDescrObject*>(descriptor)->d_getset;
    }
    return method_ != nullptr || attribute_ != nullptr;
  }

  bool answers_no(PyObject* object) const {
    PyObject* answer =
        method_ ? method_(object, nullptr) : attribute_->get(object, attribute_->closure);
    const bool no = answer == Py_False;
    if (answer == nullptr) PyErr_Clear();
    Py_XDECREF(answer);
    return no;
  }

 private:
  PyCFunction method_ = nullptr;
  const PyGetSetDef* attribute_ = nullptr;
};

// What the accumulators of an update are: tensors like the parameters, a float64 for each of their
// rows, or one float64 in all.
enum class Accumulators { elements, rows, one };

class TensorLists {
 public:
  // Takes torch's capsule, the exact types that are read, and how such a tensor says whether it is
  // a lazy negation and whether it requires grad. Without them every list is refused.
  void use(const pybind11::capsule& capsule, const pybind11::tuple& types,
           const pybind11::object& is_neg, const pybind11::object& requires_grad) {
    const auto* exchange = capsule.get_pointer<const dlpack::Exchange>();
    if (exchange->version.major != 1) return;
    if (!is_negated_.use(is_neg.ptr()) || !requires_grad_.use(requires_grad.ptr())) return;
    is_neg.inc_ref();
    requires_grad.inc_ref();
    for (const pybind11::handle type : types) types_.push_back(type.inc_ref().ptr());
    exchange_ = exchange;
  }

  // Reads lists of contiguous tensors on one device that agree in shape and type and do not
  // overlap; nothing where anything is otherwise, or where grad mode is on and a tensor that is to
  // be written requires grad.
  std::optional<Update> read(const Device& device, const pybind11::list& params,
                             const pybind11::list& grads, const pybind11::list& accumulators,
                             Accumulators kind, bool grad_mode) const {
    const Py_ssize_t count = PyList_GET_SIZE(params.ptr());
    const bool one = kind == Accumulators::one;
    if (exchange_ == nullptr || PyList_GET_SIZE(grads.ptr()) != count ||
        PyList_GET_SIZE(accumulators.ptr()) != (one ? 1 : count))
      return std::nullopt;
    const auto view_of = [&](const pybind11::list& list, Py_ssize_t i, View& out) {
      return view(device, PyList_GET_ITEM(list.ptr(), i), out);
    };
    const auto written = [&](const pybind11::list& list, Py_ssize_t i, View& out) {
      return view_of(list, i, out) &&
             (!grad_mode || requires_grad_.answers_no(PyList_GET_ITEM(list.ptr(), i)));
    };
    Update update;
    update.tensors.reserve(static_cast<std::size_t>(count));
    Starts starts(2 * count);
    View accumulator;
    if (one) {
      if (!written(accumulators, 0, accumulator) || !counts(accumulator, 1)) return std::nullopt;
      update.shared = reinterpret_cast<double*>(accumulator.data());
    }
    for (Py_ssize_t i = 0; i < count; ++i) {
      View param, grad;
      if (!written(params, i, param) || !view_of(grads, i, grad) || !same(param, grad) ||
          overlap(param, grad) || !starts.add(param))
        return std::nullopt;
      const std::int64_t rows = kind == Accumulators::rows ? rows_of(param) : 1;
      if (!one) {
        if (!written(accumulators, i, accumulator) || !starts.add(accumulator)) return std::nullopt;
        if (kind == Accumulators::rows ? !counts(accumulator, rows) : !same(param, accumulator))
          return std::nullopt;
      }
      if (overlap(accumulator, param) || overlap(accumulator, grad)) return std::nullopt;
      update.tensors.push_back({param.data(), grad.data(), one ? nullptr : accumulator.data(),
                                param.size, rows, param.type});
    }
    return update;
  }

 private:
  struct View {
    dlpack::Tensor tensor;
    std::int64_t size;
    ElementType type;
    char* data() const { return static_cast<char*>(tensor.data) + tensor.byte_offset; }
  };

  // Where tensors begin that are written; a table with open addressing, at most half full.
  class Starts {
   public:
    explicit Starts(Py_ssize_t most) {
      std::size_t slots = 16;
      while (slots < 2 * static_cast<std::size_t>(most)) slots *= 2;
      table_.resize(slots);
    }

    // False where another tensor begins there too.
    bool add(const View& view) {
      if (view.size == 0) return true;
      const auto address = reinterpret_cast<std::uintptr_t>(view.data());
      const std::size_t last = table_.size() - 1;
      std::size_t slot = (address * 0x9E3779B97F4A7C15u >> 32) & last;
      for (; table_[slot] != 0; slot = (slot + 1) & last)
        if (table_[slot] == address) return false;
      table_[slot] = address;
      return true;
    }

   private:
    std::vector<std::uintptr_t> table_;
  };

  bool view(const Device& device, PyObject* object, View& out) const {
    bool plain = false;
    for (const PyObject* type : types_)
      plain |= reinterpret_cast<const PyObject*>(Py_TYPE(object)) == type;
    if (!plain || !is_negated_.answers_no(object)) return false;
    if (exchange_->tensor_from_object(object, &out.tensor) != 0) {
      PyErr_Clear();
      return false;
    }
    return out.tensor.device_type == device.type && out.tensor.device_id == device.index &&
           element_type(out.tensor, out.type) && contiguous(out) &&
           (out.tensor.data != nullptr || out.size == 0);
  }

  static bool element_type(const dlpack::Tensor& tensor, ElementType& type) {
    if (tensor.lanes != 1) return false;
    if (tensor.type_code == 4 && tensor.bits == 16) return type = ElementType::bfloat16, true;
    if (tensor.type_code != 2) return false;
    if (tensor.bits == 16) return type = ElementType::float16, true;
    if (tensor.bits == 32) return type = ElementType::float32, true;
    if (tensor.bits == 64) return type = ElementType::float64, true;
    return false;
  }

  static bool contiguous(View& view) {
    const dlpack::Tensor& tensor = view.tensor;
    view.size = 1;
    for (std::int32_t d = tensor.dimensions - 1; d >= 0; --d) {
      if (tensor.strides && tensor.shape[d] != 1 && tensor.strides[d] != view.size &&
          view.size != 0)
        return false;
      view.size *= tensor.shape[d];
    }
    return true;
  }

  static bool same(const View& a, const View& b) {
    if (a.type != b.type || a.tensor.dimensions != b.tensor.dimensions) return false;
    for (std::int32_t d = 0; d < a.tensor.dimensions; ++d)
      if (a.tensor.shape[d] != b.tensor.shape[d]) return false;
    return true;
  }

  static bool counts(const View& accumulator, std::int64_t rows) {
    return accumulator.type == ElementType::float64 && accumulator.size == rows;
  }

  static std::int64_t rows_of(const View& param) {
    return param.tensor.dimensions > 0 ? param.tensor.shape[0] : 1;
  }

  static bool overlap(const View& a, const View& b) {
    return a.data() < b.data() + b.size * b.tensor.bits / 8 &&
           b.data() < a.data() + a.size * a.tensor.bits / 8;
  }

  const dlpack::Exchange* exchange_ = nullptr;
  std::vector<PyObject*> types_;
  Question is_negated_;
  Question requires_grad_;
};

// Adds to a module what reads lists, and what it makes of them.
inline void add_tensor_lists(pybind11::module_& m) {
  namespace py = pybind11;
  static TensorLists lists;
  // Local: each module has its own.
  py::enum_<Accumulators>(m, "Accumulators", py::module_local())
      .value("elements", Accumulators::elements)
      .value("rows", Accumulators::rows)
      .value("one", Accumulators::one);
  py::class_<Update>(m, "Update", py::module_local())
      .def(py::init(&update_of), py::arg("tensors"), py::arg("shared") = 0);
  m.def("use_tensor_exchange",
        [](const py::capsule& capsule, const py::tuple& types, const py::object& is_neg,
           const py::object& requires_grad) { lists.use(capsule, types, is_neg, requires_grad); });
  m.def("read_lists", [](std::int32_t device_type, std::int32_t device_index,
                         const py::list& params, const py::list& grads,
                         const py::list& accumulators, Accumulators kind, bool grad_mode) {
    return lists.read({device_type, device_index}, params, grads, accumulators, kind, grad_mode);
  });
}

}  // namespace adak::bindings
