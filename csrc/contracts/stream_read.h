// Memory read as fast as it comes.
#pragma once

#include <cstdint>

#include "cpu/loops.h"
#include "kernels.h"

namespace adak {
namespace cpu {

// Reads `bytes` bytes once and returns a sum of them: the floor that benchmarks measure against.
double stream_read(const void* data, std::int64_t bytes, int threads);

// What an instruction set provides.
struct ReadLoops {
  double (*read)(const void* data, std::int64_t bytes);
};
ADAK_LOOPS(ReadLoops, read_loops)

}  // namespace cpu
}  // namespace adak
