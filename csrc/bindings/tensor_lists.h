// Many tensors at the price of few: reads addresses, shapes and types of whole lists through
// DLPack's C exchange interface, which torch offers since 2.10, instead of half a dozen Python
// calls for each tensor. Whatever is not plainly right is left to the checks in Python, which say
// why.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <vector>

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
inline constexpr Device cpu_device{1, 0};

class TensorLists {
 public:
  // Takes torch's capsule and the exact types that are read; without it every list is refused.
  void use(const pybind11::capsule& capsule, const pybind11::tuple& types) {
    const auto* exchange = capsule.get_pointer<const dlpack::Exchange>();
    if (exchange->version.major != 1) return;
    exchange_ = exchange;
    for (const pybind11::handle type : types) types_.push_back(type.inc_ref().ptr());
  }

  // Fills `tensors` from lists of contiguous tensors on one device that agree in shape and type and
  // do not overlap; false where anything is otherwise. Without state_sums the accumulators are
  // null.
  bool read(const Device& device, const pybind11::list& params, const pybind11::list& grads,
            const pybind11::list* state_sums, std::vector<UpdatedTensor>& tensors) const {
    const std::size_t count = params.size();
    if (exchange_ == nullptr || grads.size() != count) return false;
    if (state_sums && state_sums->size() != count) return false;
    tensors.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      View param, grad, sum;
      if (!view(device, params[i], param) || !view(device, grads[i], grad) || !same(param, grad) ||
          overlap(grad, param))
        return false;
      char* accumulator = nullptr;
      if (state_sums) {
        if (!view(device, (*state_sums)[i], sum) || !same(param, sum) || overlap(param, sum) ||
            overlap(grad, sum))
          return false;
        accumulator = sum.data();
      }
      tensors.push_back({param.data(), grad.data(), accumulator, param.size, 1, param.type});
    }
    return distinct(tensors);
  }

 private:
  struct View {
    dlpack::Tensor tensor;
    std::int64_t size;
    ElementType type;
    char* data() const { return static_cast<char*>(tensor.data) + tensor.byte_offset; }
  };

  bool view(const Device& device, pybind11::handle object, View& out) const {
    bool plain = false;
    for (const PyObject* type : types_)
      plain |= reinterpret_cast<const PyObject*>(Py_TYPE(object.ptr())) == type;
    if (!plain) return false;
    if (exchange_->tensor_from_object(object.ptr(), &out.tensor) != 0) {
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

  // Whether no parameter and no accumulator begins where another does.
  static bool distinct(const std::vector<UpdatedTensor>& tensors) {
    std::vector<const void*> starts;
    starts.reserve(2 * tensors.size());
    for (const UpdatedTensor& tensor : tensors) {
      if (tensor.size == 0) continue;
      starts.push_back(tensor.param);
      if (tensor.accumulator) starts.push_back(tensor.accumulator);
    }
    std::sort(starts.begin(), starts.end());
    return std::adjacent_find(starts.begin(), starts.end()) == starts.end();
  }

  static bool overlap(const View& a, const View& b) {
    const std::int64_t bytes = a.size * a.tensor.bits / 8;
    return a.data() < b.data() + bytes && b.data() < a.data() + bytes;
  }

  const dlpack::Exchange* exchange_ = nullptr;
  std::vector<PyObject*> types_;
};

}  // namespace adak::bindings
