// Memory that a kernel works in, for as long as it runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "cpu/huge_pages.h"

namespace adak::bindings {

class Workspace {
 public:
  explicit Workspace(std::int64_t bytes)
      : memory_(::operator new(static_cast<std::size_t>(bytes), alignment)) {
    cpu::prefer_huge_pages(memory_, bytes);
  }
  ~Workspace() { ::operator delete(memory_, alignment); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* get() const { return memory_; }

 private:
  static constexpr std::align_val_t alignment{64};
  void* memory_;
};

}  // namespace adak::bindings
