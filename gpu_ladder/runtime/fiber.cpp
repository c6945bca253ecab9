#include "fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(GPU_LADDER_USES_UCONTEXT)
// Saves the registers that a callee must keep and the stack, and takes up another one's. A fiber
// that has not run yet has zeros for registers and Fiber::run to return to.
extern "C" void gpu_ladder_switch_stack(void** save, void* load);
asm(R"(
.text
.hidden gpu_ladder_switch_stack
.globl gpu_ladder_switch_stack
.type gpu_ladder_switch_stack, @function
gpu_ladder_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size gpu_ladder_switch_stack, .-gpu_ladder_switch_stack
)");
#endif

namespace gpu_ladder {
namespace {

constexpr std::size_t guard_bytes = 4096;

// Of the switch that is under way.
Fiber* previous_fiber = nullptr;
Fiber* next_fiber = nullptr;

}  // namespace

void Fiber::allocate() {
  void* const memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, guard_bytes, PROT_NONE);
  stack_ = static_cast<char*>(memory) + guard_bytes;
}

Fiber::~Fiber() {
  if (stack_) munmap(stack_ - guard_bytes, guard_bytes + stack_bytes);
}

void Fiber::start(void (*entry)(), std::uint32_t index) {
  if (!stack_) allocate();
  entry_ = entry;
#if defined(__SANITIZE_ADDRESS__)
  // A kernel that was given up has left the marks of its variables.
  ASAN_UNPOISON_MEMORY_REGION(stack_, stack_bytes);
  fake_stack_ = nullptr;
#endif
  char* const top = stack_ + stack_bytes - index % 32 * 128;
#if defined(GPU_LADDER_USES_UCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = static_cast<std::size_t>(top - stack_);
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::run, 0);
#else
  auto* const words = reinterpret_cast<void**>(top);
  // Six registers, the address to return to, and one word, so that the stack is aligned there as
  // after a call.
  words[-1] = nullptr;
  words[-2] = reinterpret_cast<void*>(&Fiber::run);
  for (int k = 3; k <= 8; ++k) words[-k] = nullptr;
  stack_pointer_ = words - 8;
#endif
}

void Fiber::switch_to(Fiber& other, [[maybe_unused]] bool last) {
  previous_fiber = this;
  next_fiber = &other;
#if defined(__SANITIZE_ADDRESS__)
  const bool to_host = other.stack_ == nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_,
                                 to_host ? other.host_stack_ : other.stack_,
                                 to_host ? other.host_stack_bytes_ : stack_bytes);
#endif
#if defined(GPU_LADDER_USES_UCONTEXT)
  swapcontext(&context_, &other.context_);
#else
  gpu_ladder_switch_stack(&stack_pointer_, other.stack_pointer_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &bytes);
  if (!previous_fiber->stack_) {
    previous_fiber->host_stack_ = bottom;
    previous_fiber->host_stack_bytes_ = bytes;
  }
#endif
}

void Fiber::run() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (!previous_fiber->stack_) {
    previous_fiber->host_stack_ = bottom;
    previous_fiber->host_stack_bytes_ = bytes;
  }
#endif
  next_fiber->entry_();
  __builtin_trap();
}

}  // namespace gpu_ladder
