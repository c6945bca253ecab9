// How the kernels of these tests are launched: as an op does it, by the C API with typed kernels.
#pragma once

#include <cuda_runtime.h>

#define EXPORTED extern "C" __attribute__((visibility("default")))

template <class... Params>
int launch(void (*kernel)(Params...), dim3 grid, dim3 block, unsigned shared_bytes,
           Params... params) {
  void* addresses[] = {&params..., nullptr};
  return cudaLaunchKernel(kernel, grid, block, addresses, shared_bytes, nullptr);
}
