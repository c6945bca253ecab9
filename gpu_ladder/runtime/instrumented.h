// Included before everything else in instrumented code, which is compiled with -fno-builtin-memcpy
// and its like: GCC does not instrument what it makes of these functions, so hooks.cpp has others.
#pragma once

#include <stddef.h>

extern "C" {
void* memcpy(void* to, const void* from, size_t bytes) noexcept __asm__("gpu_ladder_memcpy");
void* memmove(void* to, const void* from, size_t bytes) noexcept __asm__("gpu_ladder_memmove");
void* memset(void* to, int value, size_t bytes) noexcept __asm__("gpu_ladder_memset");
}
