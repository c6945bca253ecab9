// Parallel loops on the OpenMP runtime that is already in the process (torch's), found at run time:
// linking one of our own could bring a second runtime, whose threads would fight with the first's.
//
// It is so on macOS too, where torch's wheel brings LLVM's libomp: a wheel of this package needs
// none, since nothing is linked that a tool for wheels could copy into it.
#pragma once

#include <cstdint>
#include <type_traits>

namespace adak::cpu {

// Calls body(context, index) for index in [0, count), each once, on at most `threads` threads.
// Which thread runs which index is not fixed: results must not depend on it.
void parallel_for(std::int64_t count, int threads, void (*body)(void* context, std::int64_t index),
                  void* context);

template <class Body>
void parallel_for(std::int64_t count, int threads, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  parallel_for(
      count, threads,
      [](void* context, std::int64_t index) { (*static_cast<Plain*>(context))(index); }, &body);
}

}  // namespace adak::cpu
