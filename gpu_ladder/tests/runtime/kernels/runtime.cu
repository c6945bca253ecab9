// What the fake runtime says, for functions that a test can call.
#include "launch.h"

__global__ void touch_kernel() {}

__global__ void copy_kernel(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }

// A number, or the error with a minus sign.
static int value_or_error(cudaError_t error, int value) { return error ? -error : value; }

EXPORTED int device_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  return value_or_error(error, count);
}
EXPORTED int set_device(int device) { return cudaSetDevice(device); }
EXPORTED int current_device() {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return value_or_error(error, device);
}
EXPORTED int attribute(int which, int device) {
  int value = 0;
  const cudaError_t error =
      cudaDeviceGetAttribute(&value, static_cast<cudaDeviceAttr>(which), device);
  return value_or_error(error, value);
}
EXPORTED int driver_version() {
  int version = 0;
  const cudaError_t error = cudaDriverGetVersion(&version);
  return value_or_error(error, version);
}
EXPORTED int occupancy(int threads, int shared_bytes) {
  int blocks = 0;
  const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &blocks, touch_kernel, threads, static_cast<std::size_t>(shared_bytes));
  return value_or_error(error, blocks);
}
EXPORTED int touch_on_stream(cudaStream_t stream) {
  void* arguments[] = {nullptr};
  return cudaLaunchKernel(touch_kernel, dim3(1), dim3(1), arguments, 0, stream);
}
EXPORTED int is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(stream, &status);
  return value_or_error(error, status);
}
EXPORTED int last_error() { return cudaGetLastError(); }
EXPORTED int peek_error() { return cudaPeekAtLastError(); }
EXPORTED const char* error_name(int error) {
  return cudaGetErrorName(static_cast<cudaError_t>(error));
}
EXPORTED const char* error_text(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
EXPORTED int zero_and_copy(float* memory, float* out, int bytes) {
  if (const int error = cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes))) return error;
  return launch(copy_kernel, dim3(1), dim3(32), 0, static_cast<const float*>(memory), out);
}
