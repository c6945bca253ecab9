// Atomic functions, and loads and stores with cache hints.
#pragma once

#include <type_traits>

#include "host_model.h"

namespace gpu_ladder {

// Not instrumented, since the model hears of the access as an atomic one. Not inlined, so that the
// return address is the place of the call.
template <class T, class Function>
__attribute__((always_inline, no_sanitize("thread"))) inline T update(T* address,
                                                                      const void* return_address,
                                                                      Function function) {
  before_atomic(address, sizeof(T), true, false, return_address);
  const T old = *address;
  *address = function(old);
  return old;
}

template <class T>
concept Word =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;
template <class T>
concept Integer = Word<T> || std::is_same_v<T, long long>;
template <class T>
concept Summand = Word<T> || std::is_same_v<T, float> || std::is_same_v<T, double>;

}  // namespace gpu_ladder

#define GPU_LADDER_ATOMIC(name, concept_name, expression)                                  \
  template <gpu_ladder::concept_name T>                                                    \
  __attribute__((noinline, no_sanitize("thread"))) T name(T* address,                      \
                                                          std::type_identity_t<T> value) { \
    return gpu_ladder::update(address, __builtin_return_address(0),                        \
                              [=](T old) { return static_cast<T>(expression); });          \
  }
// Sums of int wrap around, as the device's do.
#define GPU_LADDER_WRAPPING(name, operation)                                               \
  template <gpu_ladder::Summand T>                                                         \
  __attribute__((noinline, no_sanitize("thread"))) T name(T* address,                      \
                                                          std::type_identity_t<T> value) { \
    return gpu_ladder::update(address, __builtin_return_address(0), [=](T old) {           \
      if constexpr (std::is_same_v<T, int>)                                                \
        return static_cast<int>(static_cast<unsigned>(old)                                 \
                                    operation static_cast<unsigned>(value));               \
      else                                                                                 \
        return old operation value;                                                        \
    });                                                                                    \
  }
GPU_LADDER_WRAPPING(atomicAdd, +)
GPU_LADDER_WRAPPING(atomicSub, -)
GPU_LADDER_ATOMIC(atomicExch, Summand, ((void)old, value))
GPU_LADDER_ATOMIC(atomicMin, Integer, value < old ? value : old)
GPU_LADDER_ATOMIC(atomicMax, Integer, value > old ? value : old)
GPU_LADDER_ATOMIC(atomicAnd, Integer, old& value)
GPU_LADDER_ATOMIC(atomicOr, Integer, old | value)
GPU_LADDER_ATOMIC(atomicXor, Integer, old ^ value)
#undef GPU_LADDER_ATOMIC
#undef GPU_LADDER_WRAPPING

__attribute__((noinline, no_sanitize("thread"))) inline unsigned atomicInc(unsigned* address,
                                                                           unsigned last) {
  return gpu_ladder::update(address, __builtin_return_address(0),
                            [=](unsigned old) { return old >= last ? 0u : old + 1; });
}
__attribute__((noinline, no_sanitize("thread"))) inline unsigned atomicDec(unsigned* address,
                                                                           unsigned last) {
  return gpu_ladder::update(address, __builtin_return_address(0),
                            [=](unsigned old) { return old == 0 || old > last ? last : old - 1; });
}
template <gpu_ladder::Word T>
__attribute__((noinline, no_sanitize("thread"))) T atomicCAS(T* address,
                                                             std::type_identity_t<T> expected,
                                                             std::type_identity_t<T> value) {
  return gpu_ladder::update(address, __builtin_return_address(0),
                            [=](T old) { return old == expected ? value : old; });
}

// Inlined, so that the access is at the place of the call.
#define GPU_LADDER_LOAD(name)                                                              \
  template <class T>                                                                       \
  __attribute__((always_inline)) inline T name(const T* address) {                         \
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16, "a type of CUDA's"); \
    return *address;                                                                       \
  }
GPU_LADDER_LOAD(__ldg)
GPU_LADDER_LOAD(__ldca)
GPU_LADDER_LOAD(__ldcg)
GPU_LADDER_LOAD(__ldcs)
GPU_LADDER_LOAD(__ldlu)
GPU_LADDER_LOAD(__ldcv)
#undef GPU_LADDER_LOAD

#define GPU_LADDER_STORE(name)                                                                 \
  template <class T>                                                                           \
  __attribute__((always_inline)) inline void name(T* address, std::type_identity_t<T> value) { \
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16, "a type of CUDA's");     \
    *address = value;                                                                          \
  }
GPU_LADDER_STORE(__stwb)
GPU_LADDER_STORE(__stcg)
GPU_LADDER_STORE(__stcs)
GPU_LADDER_STORE(__stwt)
#undef GPU_LADDER_STORE
