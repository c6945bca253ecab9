// Reads memory as fast as it comes: 1 byte read per byte, nothing written.
#pragma once

namespace {

double read(const void* data, std::int64_t bytes) {
  const float* from = static_cast<const float*>(data);
  const std::int64_t count = bytes / static_cast<std::int64_t>(sizeof(float));
  constexpr std::int64_t step = 4 * VecFloat::width;
  VecFloat sums[4] = {VecFloat::fill(0), VecFloat::fill(0), VecFloat::fill(0), VecFloat::fill(0)};
  for (std::int64_t i = 0; i + step <= count; i += step)
    for (int k = 0; k < 4; ++k) sums[k] = sums[k] + VecFloat::load(from + i + k * VecFloat::width);
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace

constexpr ReadLoops read_loops = {.read = read};
