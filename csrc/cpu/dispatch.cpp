// Chooses the instruction set: the widest that this machine runs, or the one asked for.
// Compiled without any -m flag, as is everything but the files in isa/.
#include <atomic>

#include "cpu/kernel_table.h"

#if ADAK_X86
#include <cpuid.h>
#endif

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
#if ADAK_ARM64
namespace neon {
extern const KernelTable table;
}
#endif

namespace {

bool on_every_machine() { return true; }

#if ADAK_X86
// `__builtin_cpu_supports("f16c")` compiles with neither clang 14 nor clang 16.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

// These ask CPUID, and whether the operating system saves the wide registers.
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool has_avx512() {
#if ADAK_EMULATE_AVX512
  return has_avx2();
#else
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
}
#endif

struct InstructionSet {
  const char* name;
  const KernelTable* table;  // null: not compiled in
  bool (*runs_here)();
};

// In the order of Isa.
constexpr InstructionSet sets[isa_count] = {
    {"scalar", &scalar::table, on_every_machine},
#if ADAK_X86
    {"avx2", &avx2::table, has_avx2},
    {"avx512", &avx512::table, has_avx512},
#else
    {"avx2", nullptr, nullptr},
    {"avx512", nullptr, nullptr},
#endif
#if ADAK_ARM64
    {"neon", &neon::table, on_every_machine},  // part of the 64-bit architecture
#else
    {"neon", nullptr, nullptr},
#endif
};

const InstructionSet& row(Isa isa) { return sets[static_cast<int>(isa)]; }

Isa widest() {
  for (int i = isa_count - 1; i > 0; --i) {
    const auto isa = static_cast<Isa>(i);
#if ADAK_EMULATE_AVX512
    if (isa == Isa::avx512) continue;  // for tests, where it is asked for
#endif
    if (isa_supported(isa)) return isa;
  }
  return Isa::scalar;
}

std::atomic<Isa> active{widest()};

}  // namespace

const char* isa_name(Isa isa) { return row(isa).name; }

bool isa_compiled(Isa isa) { return row(isa).table != nullptr; }

bool isa_supported(Isa isa) { return isa_compiled(isa) && row(isa).runs_here(); }

Isa active_isa() { return active; }

void use_isa(Isa isa) {
  if (isa_supported(isa)) active = isa;
}

const KernelTable& kernels() { return *row(active).table; }

}  // namespace adak::cpu
