// Places in a program as small numbers: lines that the source names itself, and return addresses in
// instrumented code, which are looked up only when somebody wants to read them.
#pragma once

#include <cstdint>
#include <string>

namespace gpu_ladder {

std::uint32_t site_of_line(const char* file, int line);
std::uint32_t site_of_address(const void* return_address);
// "file:line"; of inlined code the innermost that is not the model of CUDA's own headers.
std::string site_name(std::uint32_t site);

// The symbol that holds a function, exported or not; empty where there is none.
std::string symbol_of(const void* function);

}  // namespace gpu_ladder
