// What this machine has: driver, devices, and why there are none.
#include <cuda_runtime.h>

#include "kernels_cuda.h"

namespace adak::cuda {

RuntimeInfo runtime_info() {
  RuntimeInfo info{};
  static_cast<void>(cudaRuntimeGetVersion(&info.compiled_for));
  static_cast<void>(cudaDriverGetVersion(&info.driver));
  const cudaError_t error = cudaGetDeviceCount(&info.devices);
  if (error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    info.devices = 0;
    info.error = cudaGetErrorString(error);
  }
  return info;
}

DeviceInfo device_info(int device) {
  DeviceInfo info{};
  for (const auto& [value, which] : {std::pair{&info.major, cudaDevAttrComputeCapabilityMajor},
                                     std::pair{&info.minor, cudaDevAttrComputeCapabilityMinor}}) {
    const cudaError_t error = cudaDeviceGetAttribute(value, which, device);
    if (error != cudaSuccess)
      throw Error(std::string("cudaDeviceGetAttribute failed with ") + cudaGetErrorName(error) +
                  ": " + cudaGetErrorString(error));
  }
  return info;
}

}  // namespace adak::cuda
