// Memory that a kernel works in, for as long as it runs.
#pragma once

#include <pybind11/pybind11.h>

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

// Runs a kernel without the GIL, with the workspace that it asks for.
template <class Args, class Result>
Result run(Args& args, std::int64_t (*workspace_bytes)(const Args&),
           Result (*kernel)(const Args&)) {
  pybind11::gil_scoped_release release;
  const Workspace workspace(workspace_bytes(args));
  args.workspace = workspace.get();
  return kernel(args);
}

}  // namespace adak::bindings
