// The host's side of a launch: errors that name the op, the device of a call, how many blocks a
// device holds at once.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels_cuda.h"

namespace adak::cuda {

// Makes a device current for one call of one op, and reports what fails in it.
class Call {
 public:
  Call(const char* op, const Stream& stream)
      : op_(op), stream_(static_cast<cudaStream_t>(stream.handle)), device_(stream.device) {
    int count = 0;
    check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    if (stream.device < 0 || stream.device >= count)
      throw Error(std::string(op) + ": there is no CUDA device " + std::to_string(stream.device) +
                  "; this process sees " + std::to_string(count) + ", counted from 0");
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    const int major = attribute(cudaDevAttrComputeCapabilityMajor);
    if (major < oldest_major)
      throw Error(std::string(op) + ": CUDA device " + std::to_string(stream.device) +
                  " has compute capability " + std::to_string(major) + "." +
                  std::to_string(attribute(cudaDevAttrComputeCapabilityMinor)) +
                  "; these kernels need " + std::to_string(oldest_major) + ".0 or newer");
    if (previous_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
  }
  ~Call() {
    if (previous_ != device_) static_cast<void>(cudaSetDevice(previous_));
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // The blocks that all multiprocessors together hold at once.
  template <class... Params>
  int resident_blocks(void (*kernel)(Params...), int threads, std::int64_t shared_bytes) const {
    allow_shared(kernel, shared_bytes);
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads,
                                                        static_cast<std::size_t>(shared_bytes)),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    return std::max(1, blocks * attribute(cudaDevAttrMultiProcessorCount));
  }

  template <class... Params>
  void launch(void (*kernel)(Params...), dim3 grid, int threads, std::int64_t shared_bytes,
              Params... params) const {
    allow_shared(kernel, shared_bytes);
    void* addresses[] = {&params...};
    check(cudaLaunchKernel(kernel, grid, dim3(static_cast<unsigned>(threads)), addresses,
                           static_cast<std::size_t>(shared_bytes), stream_),
          "cudaLaunchKernel");
  }

 private:
  static constexpr int oldest_major = 8;
  // Above this a kernel must be told that it may have more.
  static constexpr std::int64_t default_shared_bytes = 48 << 10;

  void check(cudaError_t error, const char* what) const {
    if (error == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());  // so that the next call does not report this one's
    throw Error(std::string(op_) + ": " + what + " failed with " + cudaGetErrorName(error) + ": " +
                cudaGetErrorString(error));
  }
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device_), "cudaDeviceGetAttribute");
    return value;
  }
  template <class... Params>
  void allow_shared(void (*kernel)(Params...), std::int64_t bytes) const {
    if (bytes <= default_shared_bytes) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)),
          "cudaFuncSetAttribute");
  }

  const char* op_;
  cudaStream_t stream_;
  int device_;
  int previous_ = 0;
};

inline dim3 blocks(std::int64_t x, std::int64_t y = 1) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
}
inline std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
inline std::int64_t round_up(std::int64_t value, std::int64_t to) {
  return divide_up(value, to) * to;
}

// What one thread loads or stores in one instruction.
inline constexpr std::int64_t chunk_bytes = 16;

// Whether every row of a matrix begins at a multiple of that.
template <class T>
bool rows_are_aligned(const void* first, std::int64_t rows, std::int64_t row_stride) {
  const auto bytes = row_stride * static_cast<std::int64_t>(sizeof(T));
  return reinterpret_cast<std::uintptr_t>(first) % chunk_bytes == 0 &&
         (rows == 1 || bytes % chunk_bytes == 0);
}

}  // namespace adak::cuda
