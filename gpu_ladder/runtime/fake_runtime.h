// The devices that the fake runtime pretends to have, and what goes wrong with them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "gpu_ladder/api.h"

namespace gpu_ladder {

// As the C interface has it: arrays of three, and no types.
using LaunchHook = int (*)(const char* mangled_name, const unsigned grid[3],
                           const unsigned block[3], void** args, std::size_t shared_bytes);

struct LaunchRecord {
  std::string function;
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes;
  std::uintptr_t stream;
  int device;
};

struct FakeRuntime {
  // H100's numbers, where a device has no others.
  std::vector<std::map<int, int>> devices = std::vector<std::map<int, int>>(1);
  int driver_version = CUDART_VERSION;
  // Beside the default streams, which every device has.
  std::map<std::uintptr_t, int> streams;
  std::map<std::uintptr_t, bool> capturing;
  std::map<std::string, std::vector<cudaError_t>> failures;  // of the next calls, by name
  std::map<const void*, int> dynamic_shared_limits;
  LaunchHook hook = nullptr;
  std::vector<LaunchRecord> launches;
  int current_device = 0;
  cudaError_t last_error = cudaSuccess;

  int attribute(int device, cudaDeviceAttr attribute) const;
};
FakeRuntime& fake_runtime();

}  // namespace gpu_ladder
