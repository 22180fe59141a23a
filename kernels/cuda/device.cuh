// What every kernel file includes first: CUDA's types, and names for instructions that CUDA C++ has no words for. The
// same names exist in emulation/, which compiles the kernels for the host.
#pragma once

#include <cstdint>

#ifndef __CUDACC__

// As a card of compute capability 9.0.
#define DEVICE_ARCH 900
#include "emulation/emulation.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// 750, 800, 900, ...; 0 where nvcc compiles for the host.
#ifdef __CUDA_ARCH__
#define DEVICE_ARCH __CUDA_ARCH__
#else
#define DEVICE_ARCH 0
#endif

#define EXPORT_KERNEL(name)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// d += a * b for the 16x16 and 16x8 matrices of a warp. Lane 4 g + t holds of A the pairs (row, columns)
// a0 = (g, 2t..2t+1), a1 = (g+8, 2t..), a2 = (g, 2t+8..), a3 = (g+8, 2t+8..); of B, whose rows are k, the pairs
// (rows, column) b0 = (2t..2t+1, g) and b1 = (2t+8.., g); of the sums d0, d1 = (g, 2t..2t+1), d2, d3 = (g+8, 2t..2t+1).
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if DEVICE_ARCH >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif DEVICE_ARCH >= 750
#pragma unroll
    for (int i = 0; i < 2; i++) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
    }
#endif
}

__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if DEVICE_ARCH >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif DEVICE_ARCH > 0
    __trap();
#endif
}

// Loads 8x8 matrices of 16-bit numbers: lane i brings the address of row i % 8 of matrix i / 8 (16 bytes, of shared
// memory), and lane 4 g + t gets of every matrix the pair (g, 2t..2t+1), transposed (2t..2t+1, g).
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

// Copies of 16 bytes to shared memory which go on while the thread does. A thread sees its own after cp_async_wait,
// other threads' after a barrier as well. Before 8.0 they are plain copies.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global) {
#if DEVICE_ARCH >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
#else
    *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}
// Zeros where not valid; `global` is not read then.
__device__ __forceinline__ void cp_async_16_zfill(void* shared, const void* global, bool valid) {
#if DEVICE_ARCH >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
#else
    *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}
__device__ __forceinline__ void cp_async_commit() {
#if DEVICE_ARCH >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most the `pending_groups` latest groups of the thread are under way.
template <int pending_groups>
__device__ __forceinline__ void cp_async_wait() {
#if DEVICE_ARCH >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(pending_groups) : "memory");
#endif
}
__device__ __forceinline__ void cp_async_wait_all() {
#if DEVICE_ARCH >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// A kernel that is launched to overlap starts when every block of the one before it has called grid_dependency_launch or
// ended. Until grid_dependency_wait returns it may read what no kernel of the step writes, and write nothing but shared
// memory; from then on everything that was launched before it is done. Every such kernel calls both.
__device__ __forceinline__ void grid_dependency_wait() {
#if DEVICE_ARCH >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void grid_dependency_launch() {
#if DEVICE_ARCH >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// CUDA has these instructions from 8.0 on.
#if DEVICE_ARCH > 0 && DEVICE_ARCH < 800
template <typename T, typename Combine>
__device__ __forceinline__ T reduce_lanes(unsigned mask, T value, Combine combine) {
    T result = value;
    if (mask == 0xffffffff) {
#pragma unroll
        for (int i = 16; i > 0; i /= 2) result = combine(result, __shfl_xor_sync(mask, result, i));
        return result;
    }
    for (unsigned lanes = mask, first = 1; lanes != 0; lanes &= lanes - 1, first = 0) {
        const T other = __shfl_sync(mask, value, __ffs(static_cast<int>(lanes)) - 1);
        result = first ? other : combine(result, other);
    }
    return result;
}
#define SOFTWARE_REDUCE(name, type, expression)                                                                      \
    __device__ __forceinline__ type name(unsigned mask, type value) {                                                \
        return reduce_lanes(mask, value, [](type a, type b) -> type { return expression; });                         \
    }
SOFTWARE_REDUCE(__reduce_add_sync, unsigned, a + b)
SOFTWARE_REDUCE(__reduce_add_sync, int, a + b)
SOFTWARE_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
SOFTWARE_REDUCE(__reduce_min_sync, int, a < b ? a : b)
SOFTWARE_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
SOFTWARE_REDUCE(__reduce_max_sync, int, a > b ? a : b)
SOFTWARE_REDUCE(__reduce_and_sync, unsigned, a & b)
SOFTWARE_REDUCE(__reduce_or_sync, unsigned, a | b)
SOFTWARE_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef SOFTWARE_REDUCE
#endif

#endif
