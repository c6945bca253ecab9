// Chooses the instruction set: the widest that this machine runs, or the one asked for.
// Compiled without any -m flag, as is everything but the files in isa/.
#include <atomic>

#include "cpu/kernel_table.h"

namespace adak::cpu {

namespace scalar {
extern const KernelTable table;
}
#if ADAK_X86
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

const char* isa_name(Isa isa) {
  constexpr const char* names[isa_count] = {"scalar", "avx2", "avx512"};
  return names[static_cast<int>(isa)];
}

bool isa_compiled([[maybe_unused]] Isa isa) {
#if ADAK_X86
  return true;
#else
  return isa == Isa::scalar;
#endif
}

bool isa_supported(Isa isa) {
#if ADAK_X86
  // Asks CPUID, and whether the operating system saves the wide registers.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512) {
#if ADAK_EMULATE_AVX512
    return avx2;
#else
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  }
#endif
  return isa == Isa::scalar;
}

namespace {

Isa widest() {
#if !ADAK_EMULATE_AVX512
  if (isa_supported(Isa::avx512)) return Isa::avx512;
#endif
  return isa_supported(Isa::avx2) ? Isa::avx2 : Isa::scalar;
}

std::atomic<Isa> active{widest()};

}  // namespace

Isa active_isa() { return active; }

void use_isa(Isa isa) {
  if (isa_supported(isa)) active = isa;
}

const KernelTable& kernels() {
#if ADAK_X86
  const Isa isa = active;
  if (isa == Isa::avx512) return avx512::table;
  if (isa == Isa::avx2) return avx2::table;
#endif
  return scalar::table;
}

}  // namespace adak::cpu
