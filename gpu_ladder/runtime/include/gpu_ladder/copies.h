// Asynchronous copies. What one brings is there after the wait of its thread, and no earlier: until
// then the shared memory holds NaNs, and counts as memory that nothing wrote.
#pragma once

#include "host_model.h"

// Not instrumented for the checker, which hears of the copy as a whole; sanitizers see its bytes.
// Not inlined, so that the return address is the place of the call.
__attribute__((noinline, no_sanitize("thread"))) inline void __pipeline_memcpy_async(
    void* to, const void* from, std::size_t bytes, std::size_t zeros = 0) {
  gpu_ladder::begin_copy({to, from, bytes, zeros, __builtin_return_address(0)});
  const auto* const source = static_cast<const volatile unsigned char*>(from);
  for (std::size_t i = 0; i + zeros < bytes; ++i) static_cast<void>(source[i]);
  auto* const target = static_cast<volatile unsigned char*>(to);
  for (std::size_t i = 0; i < bytes; ++i) target[i] = 0xff;
}
inline void __pipeline_commit() { gpu_ladder::commit_copies(); }
// Until all but the last `left` committed groups of this thread's copies are there.
inline void __pipeline_wait_prior(std::size_t left) { gpu_ladder::wait_for_copies(left); }
