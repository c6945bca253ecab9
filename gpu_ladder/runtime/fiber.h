// A stack of its own, and switching to it.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) || defined(GPU_LADDER_UCONTEXT)
#define GPU_LADDER_USES_UCONTEXT 1
#include <ucontext.h>
#endif

namespace gpu_ladder {

class Fiber {
 public:
  // Made of the running thread of the host, to be switched from.
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next switch to it calls `entry`, which must not return but switch away for the last time.
  // Whatever ran on its stack before is forgotten. `index` staggers the stacks, so that those of
  // many fibers do not fall into the same places of the cache.
  void start(void (*entry)(), std::uint32_t index);
  // Saves the running context in this fiber and goes on with the other. `last`: for good.
  void switch_to(Fiber& other, bool last = false);

  std::uintptr_t stack_begin() const { return reinterpret_cast<std::uintptr_t>(stack_); }
  std::uintptr_t stack_end() const { return stack_begin() + (stack_ ? stack_bytes : 0); }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr std::size_t stack_bytes = 512 << 10;
#else
  static constexpr std::size_t stack_bytes = 128 << 10;
#endif

  void allocate();
  static void run();

  char* stack_ = nullptr;
  void (*entry_)() = nullptr;
#if defined(GPU_LADDER_USES_UCONTEXT)
  ucontext_t context_ = {};
#else
  void* stack_pointer_ = nullptr;
#endif
#if defined(__SANITIZE_ADDRESS__)
  // AddressSanitizer has to know on which stack it is.
  void* fake_stack_ = nullptr;
  const void* host_stack_ = nullptr;  // of a fiber that is the host's thread
  std::size_t host_stack_bytes_ = 0;
#endif
};

}  // namespace gpu_ladder
