// The contract of the CUDA kernels, beside kernels.h for the CPU's: one struct of arguments and one
// function for each op. Pointers are the device's unless said otherwise.
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

// Where a call runs: a device by its index, and a stream of it by its handle (null: the default).
struct Stream {
  int device;
  void* handle;
};

// Scalars that are read on the device when the kernel runs, not when it is launched: a captured
// graph replays with new values, and the host need not wait. Null: the host's value holds.
struct DeviceScalars {
  const double* lr;
  const double* grad_scale;
  const float* found_inf;  // not zero: nothing is written
};

// As cpu::BatchMomentsArgs, for float32, bfloat16 and float16; all pointers are the device's.
struct BatchMomentsArgs {
  const void* grads;  // [samples, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t samples;
  std::int64_t features;
  std::int64_t row_stride;
  float* mean;             // [features], aligned to 16
  float* variance;         // [features], aligned to 16; null: not measured
  double* sq_norms;        // [samples]
  double* inner_products;  // [samples]; null: not measured
  void* param;             // [features]; null: no update
  void* state_sum;         // [features]
  AdagradScalars scalars;
};

// As cpu::AccumulateMomentsArgs, likewise.
struct AccumulateMomentsArgs {
  const void* chunk;  // [rows, features], rows `row_stride` elements apart
  ElementType type;
  std::int64_t rows;
  std::int64_t features;
  std::int64_t row_stride;
  std::int64_t samples;  // rows before it; 0: sum and squares are overwritten
  float* sum;            // [features]
  float* squares;        // [features]; null: not measured
  double* sq_norms;      // [rows]
};

struct UpdateArgs {
  const UpdatedTensor* tensors;  // itself on the host
  std::int64_t count;
  AdagradScalars scalars;
  DeviceScalars device_scalars;
  double* sq_norm;  // [1]: the squared norm of grad / grad_scale over all tensors
};

// Gives so many bytes of device memory, aligned to 16, that live until the kernels have run.
using Allocate = std::function<void*(std::int64_t bytes)>;

// Each puts kernels into the stream and returns; throws Error before anything is written, but for
// errors of the device itself.
void batch_moments(const BatchMomentsArgs& args, const Stream& stream, const Allocate& allocate);
void accumulate_moments(const AccumulateMomentsArgs& args, const Stream& stream,
                        const Allocate& allocate);
void adagrad_step(const UpdateArgs& args, const Stream& stream, const Allocate& allocate);
// `shared` is the one accumulator of all tensors; null: one for each row of each tensor.
void adagrad_norm_step(const UpdateArgs& args, double* shared, const Stream& stream,
                       const Allocate& allocate);

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
