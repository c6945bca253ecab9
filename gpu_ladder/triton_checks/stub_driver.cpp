// A libcuda.so.1 for machines without one: what Triton's launcher asks of the driver, on one device
// that is made up. Memory is the host's, modules are kept as they are, and a launch is a call of
// whoever has asked for it.
#include <cuda.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

struct Module {
  const char* image;
};
struct Function {
  const Module* module;
  std::string name;
};

using Hook = int (*)(const char* name, const void* image, const unsigned* grid,
                     const unsigned* block, void** params, unsigned shared_bytes, void* stream);

std::map<int, int> attributes;
std::vector<std::unique_ptr<Module>> modules;
std::vector<std::unique_ptr<Function>> functions;
Hook hook = nullptr;
CUcontext current = nullptr;

// The address of something is a handle that nobody else has.
template <class Handle, class T>
Handle handle_of(T& object) {
  return reinterpret_cast<Handle>(&object);
}

CUresult run(CUfunction function, const unsigned (&grid)[3], const unsigned (&block)[3],
             unsigned shared_bytes, CUstream stream, void** params) {
  for (const auto& known : functions)
    if (handle_of<CUfunction>(*known) == function)
      return hook && hook(known->name.c_str(), known->module->image, grid, block, params,
                          shared_bytes, stream) == 0
                 ? CUDA_SUCCESS
                 : CUDA_ERROR_LAUNCH_FAILED;
  return CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace

// For tests: who runs launches, and what the device can do.
EXPORTED void stub_driver_set_hook(Hook runs) { hook = runs; }
EXPORTED void stub_driver_set_attribute(int attribute, int value) { attributes[attribute] = value; }

EXPORTED CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_SUCCESS               ? "no error"
          : error == CUDA_ERROR_LAUNCH_FAILED ? "the launch failed"
                                              : "the call was refused";
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
EXPORTED CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  const auto found = attributes.find(attribute);
  *value = found == attributes.end() ? 1 : found->second;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  static int primary;
  *context = handle_of<CUcontext>(primary);
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = current;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxSetCurrent(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxGetLimit(size_t* value, CUlimit) {
  *value = 0;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }

// The image stays where it is as long as the module is used: it is Python's bytes.
EXPORTED CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  modules.push_back(std::make_unique<Module>(Module{static_cast<const char*>(image)}));
  *module = handle_of<CUmodule>(*modules.back());
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  functions.push_back(
      std::make_unique<Function>(Function{reinterpret_cast<const Module*>(module), name}));
  *function = handle_of<CUfunction>(*functions.back());
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
EXPORTED CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return CUDA_SUCCESS;
}
EXPORTED CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
EXPORTED CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

// As of a device's memory: the address itself.
EXPORTED CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute,
                                        CUdeviceptr address) {
  if (attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(data, &address, sizeof(address));
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** params,
                                   void**) {
  return run(function, {config->gridDimX, config->gridDimY, config->gridDimZ},
             {config->blockDimX, config->blockDimY, config->blockDimZ}, config->sharedMemBytes,
             config->hStream, params);
}
EXPORTED CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                 unsigned grid_z, unsigned block_x, unsigned block_y,
                                 unsigned block_z, unsigned shared_bytes, CUstream stream,
                                 void** params, void**) {
  return run(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, stream,
             params);
}
EXPORTED CUresult cuOccupancyMaxActiveClusters(int*, CUfunction, const CUlaunchConfig*) {
  return CUDA_ERROR_NOT_SUPPORTED;
}
EXPORTED CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                         const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                         const cuuint32_t*, CUtensorMapInterleave,
                                         CUtensorMapSwizzle, CUtensorMapL2promotion,
                                         CUtensorMapFloatOOBfill) {
  return CUDA_ERROR_NOT_SUPPORTED;
}
