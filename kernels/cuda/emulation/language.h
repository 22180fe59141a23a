// CUDA's words for host C++: function and variable qualifiers, vector types, dim3.
#pragma once

#include <cstdint>

// Kernels say `#pragma unroll`, which g++ does not know.
#pragma GCC diagnostic ignored "-Wunknown-pragmas"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__
// All threads of a block are fibers of one OS thread, and blocks run one after the other.
#define __shared__ static thread_local

#define EMULATED_VECTOR_TYPES(element, name, bytes1, bytes2, bytes4)                                                 \
    struct alignas(bytes1) name##1 { element x; };                                                                   \
    struct alignas(bytes2) name##2 { element x, y; };                                                                \
    struct name##3 { element x, y, z; };                                                                             \
    struct alignas(bytes4) name##4 { element x, y, z, w; };                                                          \
    inline name##1 make_##name##1(element x) { return {x}; }                                                         \
    inline name##2 make_##name##2(element x, element y) { return {x, y}; }                                           \
    inline name##3 make_##name##3(element x, element y, element z) { return {x, y, z}; }                             \
    inline name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }

EMULATED_VECTOR_TYPES(signed char, char, 1, 2, 4)
EMULATED_VECTOR_TYPES(unsigned char, uchar, 1, 2, 4)
EMULATED_VECTOR_TYPES(short, short, 2, 4, 8)
EMULATED_VECTOR_TYPES(unsigned short, ushort, 2, 4, 8)
EMULATED_VECTOR_TYPES(int, int, 4, 8, 16)
EMULATED_VECTOR_TYPES(unsigned, uint, 4, 8, 16)
EMULATED_VECTOR_TYPES(long long, longlong, 8, 16, 16)
EMULATED_VECTOR_TYPES(unsigned long long, ulonglong, 8, 16, 16)
EMULATED_VECTOR_TYPES(float, float, 4, 8, 16)
EMULATED_VECTOR_TYPES(double, double, 8, 16, 16)
#undef EMULATED_VECTOR_TYPES

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
