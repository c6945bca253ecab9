// The accesses of instrumented code. GCC's -fsanitize=thread puts a call before each access to
// memory that another thread might see; ThreadSanitizer's library would answer these calls, and
// does not know of CUDA's threads. It is left out, and here are other answers: they tell the memory
// model.
//
// Not seen: accesses to a thread's own stack and to variables of the program that are not shared.
#include <cxxabi.h>
#include <elf.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "elf_symbols.h"
#include "gpu_ladder/api.h"
#include "host_model.h"
#include "sites.h"

namespace gpu_ladder {
namespace {

// Where there is none, thread-local memory is not laid out.
thread_local volatile char first_use = 0;

struct ProgramRange {
  std::uintptr_t begin;
  std::uintptr_t end;
};
const ProgramRange& program() {
  static const ProgramRange range = [] {
    const auto [begin, end] = module_range();
    return ProgramRange{begin, end};
  }();
  return range;
}

struct Kind {
  bool write;
  bool strong;  // volatile
};

void see(const void* memory, std::size_t bytes, Kind kind, const void* return_address) {
  const RunningThread* const thread = running_thread();
  if (!thread) return;
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  if (address >= thread->stack_begin && address < thread->stack_end) return;
  if (address >= program().begin && address < program().end) return;
  if (kind.strong) {
    before_atomic(memory, bytes, kind.write, kind.write, return_address);
  } else if (!memory_model().access({thread->index, Space::global, kind.write, false,
                                     static_cast<std::uint32_t>(bytes), address,
                                     site_of_address(return_address)})) {
    give_up(cudaErrorIllegalAddress);
  }
  const bool is_power = (bytes & (bytes - 1)) == 0;
  if (is_power && address % bytes != 0) give_up(cudaErrorMisalignedAddress);
}

// A copy of 1, 2, 4, 8 or 16 bytes between aligned addresses is one access, others go byte by byte:
// the device's compiler may not assume more.
void see_copy(const void* to, const void* from, std::size_t bytes, const void* return_address) {
  if (!running_thread()) return;
  const auto addresses =
      reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  const bool is_one =
      bytes > 0 && bytes <= 16 && (bytes & (bytes - 1)) == 0 && addresses % bytes == 0;
  const std::size_t step = is_one ? bytes : 1;
  for (std::size_t i = 0; i < bytes; i += step) {
    if (from) see(static_cast<const char*>(from) + i, step, {false, false}, return_address);
    // A place of its own, since a site has one direction.
    see(static_cast<const char*>(to) + i, step, {true, false},
        static_cast<const char*>(return_address) - (from ? 1 : 0));
  }
}

// "kernel(...)::sums" becomes "shared sums".
std::string readable(const std::string& symbol) {
  int status = 0;
  char* const demangled = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  std::string name = demangled ? demangled : symbol;
  std::free(demangled);
  const std::size_t last = name.rfind("::");
  return "shared " + (last == std::string::npos ? name : name.substr(last + 2));
}

bool is_of_a_kernel(const std::string& symbol) {
  // Variables of functions, but not those of libraries that the module includes.
  return symbol.starts_with("_ZZ") && symbol.find("pybind11") == std::string::npos &&
         symbol.find("gpu_ladder") == std::string::npos;
}

}  // namespace

extern const bool accesses_are_checked = true;

void register_shared_variables(MemoryModel& model) {
  static const std::vector<Symbol> symbols = module_symbols(STT_TLS);
  static std::uintptr_t registered = 0;
  first_use = 1;
  const std::uintptr_t base = this_module().tls;
  if (base == registered) return;
  registered = base;
  model.clear_shared();
  for (const Symbol& symbol : symbols)
    if (is_of_a_kernel(symbol.name))
      model.add_shared(readable(symbol.name), base + symbol.offset, symbol.bytes);
}

}  // namespace gpu_ladder

// The names and types are GCC's.
#define GPU_LADDER_HOOK(name, bytes, write, strong)                                    \
  extern "C" __attribute__((visibility("hidden"))) void __tsan_##name(void* address) { \
    gpu_ladder::see(address, bytes, {write, strong}, __builtin_return_address(0));     \
  }
#define GPU_LADDER_HOOKS(bytes)                                       \
  GPU_LADDER_HOOK(read##bytes, bytes, false, false)                   \
  GPU_LADDER_HOOK(write##bytes, bytes, true, false)                   \
  GPU_LADDER_HOOK(unaligned_read##bytes, bytes, false, false)         \
  GPU_LADDER_HOOK(unaligned_write##bytes, bytes, true, false)         \
  GPU_LADDER_HOOK(volatile_read##bytes, bytes, false, true)           \
  GPU_LADDER_HOOK(volatile_write##bytes, bytes, true, true)           \
  GPU_LADDER_HOOK(unaligned_volatile_read##bytes, bytes, false, true) \
  GPU_LADDER_HOOK(unaligned_volatile_write##bytes, bytes, true, true)

GPU_LADDER_HOOKS(1)
GPU_LADDER_HOOKS(2)
GPU_LADDER_HOOKS(4)
GPU_LADDER_HOOKS(8)
GPU_LADDER_HOOKS(16)

extern "C" {
#define GPU_LADDER_HIDDEN __attribute__((visibility("hidden")))
GPU_LADDER_HIDDEN void __tsan_read_range(void* address, std::size_t bytes) {
  gpu_ladder::see(address, bytes, {false, false}, __builtin_return_address(0));
}
GPU_LADDER_HIDDEN void __tsan_write_range(void* address, std::size_t bytes) {
  gpu_ladder::see(address, bytes, {true, false}, __builtin_return_address(0));
}
// See instrumented.h.
GPU_LADDER_HIDDEN void* gpu_ladder_memcpy(void* to, const void* from, std::size_t bytes) {
  gpu_ladder::see_copy(to, from, bytes, __builtin_return_address(0));
  return std::memcpy(to, from, bytes);
}
GPU_LADDER_HIDDEN void* gpu_ladder_memmove(void* to, const void* from, std::size_t bytes) {
  gpu_ladder::see_copy(to, from, bytes, __builtin_return_address(0));
  return std::memmove(to, from, bytes);
}
GPU_LADDER_HIDDEN void* gpu_ladder_memset(void* to, int value, std::size_t bytes) {
  gpu_ladder::see_copy(to, nullptr, bytes, __builtin_return_address(0));
  return std::memset(to, value, bytes);
}
GPU_LADDER_HIDDEN void __tsan_init() {}
GPU_LADDER_HIDDEN void __tsan_func_entry(void*) {}
GPU_LADDER_HIDDEN void __tsan_func_exit() {}
GPU_LADDER_HIDDEN void __tsan_vptr_update(void*, void*) {}
GPU_LADDER_HIDDEN void __tsan_vptr_read(void*) {}

// What the host's part of the instrumented files does atomically: kernels use CUDA's functions.
#define GPU_LADDER_ATOMICS(bits, type)                                                             \
  GPU_LADDER_HIDDEN type __tsan_atomic##bits##_load(const volatile type* address, int) {           \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  GPU_LADDER_HIDDEN void __tsan_atomic##bits##_store(volatile type* address, type value, int) {    \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                \
  GPU_LADDER_HIDDEN type __tsan_atomic##bits##_exchange(volatile type* address, type value, int) { \
    return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);                                  \
  }                                                                                                \
  GPU_LADDER_HIDDEN type __tsan_atomic##bits##_fetch_add(volatile type* address, type value,       \
                                                         int) {                                    \
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                                   \
  }                                                                                                \
  GPU_LADDER_HIDDEN type __tsan_atomic##bits##_fetch_sub(volatile type* address, type value,       \
                                                         int) {                                    \
    return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);                                   \
  }                                                                                                \
  GPU_LADDER_HIDDEN int __tsan_atomic##bits##_compare_exchange_strong(                             \
      volatile type* address, type* expected, type value, int, int) {                              \
    return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST,          \
                                       __ATOMIC_SEQ_CST);                                          \
  }
GPU_LADDER_ATOMICS(8, unsigned char)
GPU_LADDER_ATOMICS(32, unsigned)
GPU_LADDER_ATOMICS(64, unsigned long)
}
