// What the file of the running module says about itself.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gpu_ladder {

struct Module {
  std::string path;
  std::uintptr_t base;  // that addresses in the file count from
  std::uintptr_t tls;   // the calling thread's thread-local variables; 0: none
};
// The program or library that this function is part of.
Module this_module();
// The addresses of its code and data.
std::pair<std::uintptr_t, std::uintptr_t> module_range();

struct Symbol {
  std::string name;
  std::uint64_t offset;  // from the module's base, or from its thread-local variables
  std::uint64_t bytes;
};
// Those of one type (STT_FUNC, STT_TLS) that are defined, exported or not; none if the file is
// stripped.
std::vector<Symbol> module_symbols(unsigned char type);

}  // namespace gpu_ladder
