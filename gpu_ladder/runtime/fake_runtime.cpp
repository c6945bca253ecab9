#include "fake_runtime.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>

#include "sites.h"

namespace gpu_ladder {
namespace {

constexpr int default_shared_bytes = 48 << 10;

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const ErrorText* find(cudaError_t error) {
  const auto* const found =
      std::find_if(std::begin(error_texts), std::end(error_texts),
                   [&](const ErrorText& text) { return text.error == error; });
  return found == std::end(error_texts) ? nullptr : found;
}

cudaError_t fail(cudaError_t error) {
  if (error != cudaSuccess) fake_runtime().last_error = error;
  return error;
}

// What every call meets first: the error it was told to give, a missing driver or device.
std::optional<cudaError_t> refusal(const char* api) {
  FakeRuntime& runtime = fake_runtime();
  if (const auto found = runtime.failures.find(api);
      found != runtime.failures.end() && !found->second.empty()) {
    const cudaError_t error = found->second.front();
    found->second.erase(found->second.begin());
    if (error != cudaSuccess) return fail(error);
  }
  if (runtime.driver_version < CUDART_VERSION) return fail(cudaErrorInsufficientDriver);
  if (runtime.devices.empty()) return fail(cudaErrorNoDevice);
  return std::nullopt;
}

bool is_device(int device) {
  return device >= 0 && device < static_cast<int>(fake_runtime().devices.size());
}

// The device of a stream; nothing where the handle is unknown.
std::optional<int> device_of(cudaStream_t stream) {
  const FakeRuntime& runtime = fake_runtime();
  const auto handle = reinterpret_cast<std::uintptr_t>(stream);
  if (handle <= 2) return runtime.current_device;  // default, legacy, one for each thread
  const auto found = runtime.streams.find(handle);
  if (found == runtime.streams.end()) return std::nullopt;
  return found->second;
}

int shared_limit(const void* function) {
  const auto& limits = fake_runtime().dynamic_shared_limits;
  const auto found = limits.find(function);
  return found == limits.end() ? default_shared_bytes : found->second;
}

// As the device checks a launch.
cudaError_t check(const Launch& launch, cudaStream_t stream) {
  const FakeRuntime& runtime = fake_runtime();
  if (device_of(stream) != runtime.current_device) return cudaErrorInvalidResourceHandle;
  const dim3& grid = launch.grid;
  const dim3& block = launch.block;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0)
    return cudaErrorInvalidConfiguration;
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (block.x > 1024 || block.y > 1024 || block.z > 64) return cudaErrorInvalidConfiguration;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const int most = runtime.attribute(runtime.current_device, cudaDevAttrMaxThreadsPerBlock);
  if (threads > static_cast<std::uint64_t>(most)) return cudaErrorInvalidConfiguration;
  if (launch.shared_bytes > static_cast<std::size_t>(shared_limit(launch.function)))
    return cudaErrorInvalidValue;
  return cudaSuccess;
}

}  // namespace

FakeRuntime& fake_runtime() {
  static FakeRuntime* const runtime = new FakeRuntime;
  return *runtime;
}

int FakeRuntime::attribute(int device, cudaDeviceAttr attribute) const {
  static const std::map<int, int> defaults = {
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrMaxSharedMemoryPerBlock, default_shared_bytes},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMaxRegistersPerBlock, 65536},
      {cudaDevAttrMultiProcessorCount, 132},
      {cudaDevAttrL2CacheSize, 50 << 20},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrComputeCapabilityMinor, 0},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 << 10},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, 227 << 10},
      {cudaDevAttrMaxBlocksPerMultiprocessor, 32},
      {cudaDevAttrReservedSharedMemoryPerBlock, 1 << 10},
  };
  const auto& own = devices[static_cast<std::size_t>(device)];
  if (const auto found = own.find(attribute); found != own.end()) return found->second;
  const auto found = defaults.find(attribute);
  return found == defaults.end() ? -1 : found->second;
}

cudaError_t launch_kernel(const Launch& launch, cudaStream_t stream) {
  // Threads of the host take turns: there is one device's worth of shared memory.
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  if (const auto error = refusal("cudaLaunchKernel")) return *error;
  if (const cudaError_t error = check(launch, stream)) return fail(error);
  FakeRuntime& runtime = fake_runtime();
  const std::string name = symbol_of(launch.function);
  runtime.launches.push_back({name, launch.grid, launch.block, launch.shared_bytes,
                              reinterpret_cast<std::uintptr_t>(stream), runtime.current_device});
  const unsigned grid[3] = {launch.grid.x, launch.grid.y, launch.grid.z};
  const unsigned block[3] = {launch.block.x, launch.block.y, launch.block.z};
  const int error = runtime.hook
                        ? runtime.hook(name.c_str(), grid, block, launch.args, launch.shared_bytes)
                        : run_grid(launch);
  return fail(static_cast<cudaError_t>(error));
}

cudaError_t set_function_attribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (const auto error = refusal("cudaFuncSetAttribute")) return *error;
  FakeRuntime& runtime = fake_runtime();
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return fail(cudaErrorInvalidValue);
  const int most =
      runtime.attribute(runtime.current_device, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (value < 0 || value > most) return fail(cudaErrorInvalidValue);
  runtime.dynamic_shared_limits[function] = value;
  return cudaSuccess;
}

cudaError_t get_function_attributes(cudaFuncAttributes* attributes, const void* function) {
  if (const auto error = refusal("cudaFuncGetAttributes")) return *error;
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  attributes->maxDynamicSharedSizeBytes = shared_limit(function);
  return cudaSuccess;
}

// By threads, shared memory and blocks; what registers allow is not known here.
cudaError_t resident_blocks(int* blocks, const void* function, int threads,
                            std::size_t shared_bytes) {
  if (const auto error = refusal("cudaOccupancyMaxActiveBlocksPerMultiprocessor")) return *error;
  const FakeRuntime& runtime = fake_runtime();
  const auto attribute = [&](cudaDeviceAttr which) {
    return runtime.attribute(runtime.current_device, which);
  };
  if (threads <= 0) return fail(cudaErrorInvalidValue);
  *blocks = 0;
  if (threads > attribute(cudaDevAttrMaxThreadsPerBlock) ||
      shared_bytes > static_cast<std::size_t>(shared_limit(function)))
    return cudaSuccess;
  const int shared =
      static_cast<int>(shared_bytes) + attribute(cudaDevAttrReservedSharedMemoryPerBlock);
  const int whole_warps = (threads + 31) / 32 * 32;
  *blocks = std::min({attribute(cudaDevAttrMaxBlocksPerMultiprocessor),
                      attribute(cudaDevAttrMaxThreadsPerMultiProcessor) / whole_warps,
                      attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / shared});
  return cudaSuccess;
}

}  // namespace gpu_ladder

using gpu_ladder::fake_runtime;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (const auto error = gpu_ladder::refusal("cudaGetDeviceCount")) return *error;
  *count = static_cast<int>(fake_runtime().devices.size());
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  if (const auto error = gpu_ladder::refusal("cudaGetDevice")) return *error;
  *device = fake_runtime().current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (const auto error = gpu_ladder::refusal("cudaSetDevice")) return *error;
  if (!gpu_ladder::is_device(device)) return gpu_ladder::fail(cudaErrorInvalidDevice);
  fake_runtime().current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (const auto error = gpu_ladder::refusal("cudaDeviceGetAttribute")) return *error;
  if (!gpu_ladder::is_device(device)) return gpu_ladder::fail(cudaErrorInvalidDevice);
  *value = fake_runtime().attribute(device, attribute);
  return *value < 0 ? gpu_ladder::fail(cudaErrorInvalidValue) : cudaSuccess;
}
// The versions can be asked for without a driver.
cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake_runtime().driver_version;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = fake_runtime().last_error;
  fake_runtime().last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return fake_runtime().last_error; }
const char* cudaGetErrorName(cudaError_t error) {
  const auto* const found = gpu_ladder::find(error);
  return found ? found->name : "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  const auto* const found = gpu_ladder::find(error);
  return found ? found->text : "unrecognized error code";
}
cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  if (const auto error = gpu_ladder::refusal("cudaStreamGetDevice")) return *error;
  const auto found = gpu_ladder::device_of(stream);
  if (!found) return gpu_ladder::fail(cudaErrorInvalidResourceHandle);
  *device = *found;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  if (const auto error = gpu_ladder::refusal("cudaStreamIsCapturing")) return *error;
  if (!gpu_ladder::device_of(stream)) return gpu_ladder::fail(cudaErrorInvalidResourceHandle);
  const auto& capturing = fake_runtime().capturing;
  *status = capturing.count(reinterpret_cast<std::uintptr_t>(stream)) != 0
                ? cudaStreamCaptureStatusActive
                : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes, cudaStream_t stream) {
  if (const auto error = gpu_ladder::refusal("cudaMemsetAsync")) return *error;
  if (gpu_ladder::device_of(stream) != fake_runtime().current_device)
    return gpu_ladder::fail(cudaErrorInvalidResourceHandle);
  std::memset(address, value, bytes);
  gpu_ladder::memory_model().mark_initialised(reinterpret_cast<std::uintptr_t>(address), bytes);
  return cudaSuccess;
}
