// Chooses the instruction set: the widest that this machine runs, or the one asked for.
// Compiled without any -m flag, as is everything but the files in isa/.
#include <atomic>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace adak::cpu {

namespace {

bool on_every_machine() { return true; }
bool on_none() { return false; }

#if defined(__x86_64__)
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
constexpr auto has_neon = on_none;
#else
constexpr auto has_avx2 = on_none;
constexpr auto has_avx512 = on_none;
constexpr auto has_neon = on_every_machine;  // where it is compiled in, it is always there
#endif

struct InstructionSet {
  const char* name;
  bool (*runs_here)();
};

// In the order of Isa.
constexpr InstructionSet sets[isa_count] = {
    {"scalar", on_every_machine},
    {"avx2", has_avx2},
    {"avx512", has_avx512},
    {"neon", has_neon},
};

#define ADAK_OR_IT_IS(isa, asked) || asked == Isa::isa

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

bool isa_compiled(Isa isa) { return false ADAK_INSTRUCTION_SETS(ADAK_OR_IT_IS, isa); }

bool isa_supported(Isa isa) { return isa_compiled(isa) && row(isa).runs_here(); }

Isa active_isa() { return active; }

void use_isa(Isa isa) {
  if (isa_supported(isa)) active = isa;
}

}  // namespace adak::cpu
