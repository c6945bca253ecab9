// Blocks per multiprocessor by CUDA's own cuda_occupancy.h: one line of numbers in, one line out.
#include <cuda_occupancy.h>

#include <cstddef>
#include <cstdio>

int main() {
  int architecture = 0, sm_threads = 0, threads = 0, registers = 0;
  std::size_t sm_shared = 0, static_shared = 0, dynamic_shared = 0;
  while (std::scanf("%d %d %zu %d %d %zu %zu", &architecture, &sm_threads, &sm_shared, &threads,
                    &registers, &static_shared, &dynamic_shared) == 7) {
    cudaOccDeviceProp device;
    device.computeMajor = architecture / 10;
    device.computeMinor = architecture % 10;
    device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = sm_threads;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.warpSize = 32;
    device.numSms = 100;
    device.sharedMemPerBlock = 48 * 1024;
    device.reservedSharedMemPerBlock = 1024;
    device.sharedMemPerMultiprocessor = sm_shared;
    device.sharedMemPerBlockOptin = sm_shared - 1024;

    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = static_shared;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = device.sharedMemPerBlockOptin;
    kernel.numBlockBarriers = 1;

    const cudaOccDeviceState state;
    cudaOccResult result;
    const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(
        &result, &device, &kernel, &state, threads, dynamic_shared);
    if (error != CUDA_OCC_SUCCESS) {
      std::fprintf(stderr, "cuda_occupancy.h refuses the input: error %d\n", error);
      return 1;
    }
    const unsigned limits = result.limitingFactors;
    std::printf("%d %d %d %d %d\n", result.activeBlocksPerMultiprocessor,
                (limits & OCC_LIMIT_WARPS) != 0, (limits & OCC_LIMIT_REGISTERS) != 0,
                (limits & OCC_LIMIT_SHARED_MEMORY) != 0, (limits & OCC_LIMIT_BLOCKS) != 0);
  }
}
