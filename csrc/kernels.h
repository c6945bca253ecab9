// What the files of contracts/ share. Each is a file of plain types, between an op's kernels and
// whoever calls them: a struct of arguments and a function, and what its driver asks of an
// instruction set. Nothing there knows of tensors or of Python.
//
// Pointers are to elements of the named type; "sum type" is float for float, bfloat16 and float16
// elements, and double for double. Nothing is allocated inside: workspaces are passed in.
#pragma once

#include <cstdint>

namespace adak {

enum class ElementType : int { float32 = 0, bfloat16 = 1, float16 = 2, float64 = 3 };
inline constexpr int element_types = 4;
constexpr std::int64_t element_bytes(ElementType type) {
  constexpr std::int64_t bytes[element_types] = {4, 2, 2, 8};
  return bytes[static_cast<int>(type)];
}

// The scalars of an AdaGrad update: with d = sign * grad / grad_scale + weight_decay * param,
// sum += d^2 and param -= lr * d / (sqrt(sum) + eps).
struct AdagradScalars {
  double lr;
  double eps;
  double weight_decay;
  double grad_scale;
  bool maximize;
};

// One tensor of an update; pointers are those of the device where it runs.
struct UpdatedTensor {
  void* param;
  const void* grad;
  void* accumulator;  // AdaGrad: like param; AdaGrad-Norm: double, one for each row
  std::int64_t size;
  std::int64_t rows;
  ElementType type;
};

namespace cpu {

// Of each processor from the narrowest to the widest; which are compiled in depends on the target.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, neon = 3 };
inline constexpr int isa_count = 4;

// with(isa, ...) for each that is compiled in; the namespace of its loops has its name.
#define ADAK_INSTRUCTION_SETS(with, ...)                                                      \
  with(scalar, __VA_ARGS__) ADAK_IF_AVX2(with, __VA_ARGS__) ADAK_IF_AVX512(with, __VA_ARGS__) \
      ADAK_IF_NEON(with, __VA_ARGS__)
#if ADAK_AVX2
#define ADAK_IF_AVX2(with, ...) with(avx2, __VA_ARGS__)
#else
#define ADAK_IF_AVX2(with, ...)
#endif
#if ADAK_AVX512
#define ADAK_IF_AVX512(with, ...) with(avx512, __VA_ARGS__)
#else
#define ADAK_IF_AVX512(with, ...)
#endif
#if ADAK_NEON
#define ADAK_IF_NEON(with, ...) with(neon, __VA_ARGS__)
#else
#define ADAK_IF_NEON(with, ...)
#endif

const char* isa_name(Isa isa);
bool isa_compiled(Isa isa);
bool isa_supported(Isa isa);
Isa active_isa();
void use_isa(Isa isa);

// Shares the OpenMP runtime that `library`, already loaded in this process, calls itself; false if
// it calls none. Without one, kernels run on the calling thread alone.
bool use_openmp(const char* library);

}  // namespace cpu

namespace cuda {

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

class Allocate;  // in kernels_cuda.h

}  // namespace cuda
}  // namespace adak
