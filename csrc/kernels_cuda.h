// What the CUDA kernels share beyond kernels.h. The functions in contracts/ put kernels into a
// stream and return; they throw Error before anything is written, but for errors of the device
// itself. Pointers are the device's unless said otherwise.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace adak {
namespace cuda {

// What the CUDA runtime reports, with the op in which it happened.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Gives so many bytes of device memory, aligned to 16, that live until the kernels have run.
class Allocate : public std::function<void*(std::int64_t bytes)> {
 public:
  using function::function;
};

struct RuntimeInfo {
  int compiled_for;  // the version of the toolkit: 1000 * major + 10 * minor
  int driver;        // the newest version that the driver supports; 0: no driver
  int devices;
  std::string error;  // why there are no devices; empty where there are
};
RuntimeInfo runtime_info();

// Why a device cannot run these kernels, such as code for other architectures; empty if it can.
std::string obstacle(int device);

struct DeviceInfo {
  int major;  // of the compute capability
  int minor;
};
DeviceInfo device_info(int device);

}  // namespace cuda
}  // namespace adak
