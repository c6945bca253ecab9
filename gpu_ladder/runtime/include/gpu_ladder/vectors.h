// CUDA's vector types, with its sizes and alignments: a copy of a whole vector is one access.
#pragma once

#define GPU_LADDER_VECTORS(name, type, two, four)                                \
  struct name##1 { type x; };                                                    \
  struct alignas(two) name##2 { type x, y; };                                    \
  struct name##3 { type x, y, z; };                                              \
  struct alignas(four) name##4 { type x, y, z, w; };                             \
  constexpr name##1 make_##name##1(type x) { return {x}; }                       \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }            \
  constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
  constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

GPU_LADDER_VECTORS(char, signed char, 2, 4)
GPU_LADDER_VECTORS(uchar, unsigned char, 2, 4)
GPU_LADDER_VECTORS(short, short, 4, 8)
GPU_LADDER_VECTORS(ushort, unsigned short, 4, 8)
GPU_LADDER_VECTORS(int, int, 8, 16)
GPU_LADDER_VECTORS(uint, unsigned, 8, 16)
GPU_LADDER_VECTORS(float, float, 8, 16)

#undef GPU_LADDER_VECTORS

// Of 8 bytes each; vectors of four are left out, whose alignment depends on CUDA's version.
#define GPU_LADDER_VECTORS(name, type)                                \
  struct name##1 { type x; };                                         \
  struct alignas(16) name##2 { type x, y; };                          \
  struct name##3 { type x, y, z; };                                   \
  constexpr name##1 make_##name##1(type x) { return {x}; }            \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; } \
  constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }

GPU_LADDER_VECTORS(longlong, long long)
GPU_LADDER_VECTORS(ulonglong, unsigned long long)
GPU_LADDER_VECTORS(double, double)

#undef GPU_LADDER_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned size_x = 1, unsigned size_y = 1, unsigned size_z = 1)
      : x(size_x), y(size_y), z(size_z) {}
  constexpr dim3(uint3 size) : x(size.x), y(size.y), z(size.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
