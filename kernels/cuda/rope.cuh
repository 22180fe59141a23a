// Rotary position embedding (Su et al., 2021), the Walsh-Hadamard transform that spreads large elements, and the elements
// of the cache: what is done to one head of one token by one warp. Sums and products are rounded one by one, in the order
// of the host's, so that both give the same bits.
//
// In a page of a head, keys are rows (32 positions, head_dim) and values are transposed (head_dim, 32 positions): in both,
// the numbers that a product adds up are neighbours, and a thread of attention reads eight of them at once. Bytes are
// followed by their positions' f32 scales. `T` is the cache's type: __half, or int8_t for bytes.
#pragma once

#include "step.cuh"

// Elements of a head that one lane holds: lane + 32 j.
constexpr int MAX_LANE_ELEMENTS = 8;
// Longest part of a head that is transformed by itself.
constexpr int MAX_SPREAD = 128;

// How pairs are formed, and the cosines and sines of a step.
struct Rope {
    // (rows, 2, head_dim / 2): cosines, then sines.
    const float* angles;
    // Whether neighbours are pairs; otherwise elements half a head apart.
    uint32_t interleaved;
    uint32_t head_dim;
};

// Element `e` of the head at `head`, rotated by the angles of `row`. Reads its partner too.
__device__ __forceinline__ float rotated(const Rope& rope, const float* head, int row, int e) {
    const int half = rope.head_dim / 2;
    const bool second = rope.interleaved ? e % 2 != 0 : e >= half;
    const int pair = rope.interleaved ? e / 2 : second ? e - half : e;
    const int other = rope.interleaved ? e ^ 1 : second ? e - half : e + half;
    const float* angles = rope.angles + (size_t)row * rope.head_dim;
    const float x = __fmul_rn(head[e], angles[pair]), y = __fmul_rn(head[other], angles[half + pair]);
    return second ? __fadd_rn(x, y) : __fsub_rn(x, y);
}

// Loads a head of a token, rotated if `rotate`. Elements behind its end are 0.
__device__ __forceinline__ void load_head(const Rope& rope, const float* head, int row, bool rotate,
                                          float (&x)[MAX_LANE_ELEMENTS]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < MAX_LANE_ELEMENTS; j++) {
        const int e = lane + 32 * j;
        x[j] = e >= (int)rope.head_dim ? 0.0f : rotate ? rotated(rope, head, row, e) : head[e];
    }
}

// Elements that are transformed together: a power of two that divides head_dim.
__device__ __forceinline__ int spread_width(int head_dim) {
    return min(head_dim & -head_dim, MAX_SPREAD);
}

// Transforms a head without its factor, which is 1 / spread_width of the product of two.
__device__ __forceinline__ void spread(float (&x)[MAX_LANE_ELEMENTS], int head_dim) {
    const int lane = threadIdx.x % 32, width = spread_width(head_dim);
#pragma unroll
    for (int step = 2; step > 0; step /= 2) {
        if (width < 64 * step) continue;
#pragma unroll
        for (int j = 0; j < MAX_LANE_ELEMENTS; j++) {
            if (j & step) continue;
            const float low = x[j], high = x[j + step];
            x[j] = __fadd_rn(low, high);
            x[j + step] = __fsub_rn(low, high);
        }
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        if (width < 2 * mask) continue;
#pragma unroll
        for (int j = 0; j < MAX_LANE_ELEMENTS; j++) {
            const float other = __shfl_xor_sync(0xffffffff, x[j], mask);
            x[j] = lane & mask ? __fsub_rn(other, x[j]) : __fadd_rn(x[j], other);
        }
    }
}

// The scale by which the largest magnitude of a head becomes 127; NaN where an element is not finite, so that it stays
// visible. The same for all lanes.
__device__ __forceinline__ float byte_scale(const float (&x)[MAX_LANE_ELEMENTS]) {
    float largest = 0.0f;
    bool finite = true;
#pragma unroll
    for (int j = 0; j < MAX_LANE_ELEMENTS; j++) {
        largest = fmaxf(largest, fabsf(x[j]));
        finite = finite && fabsf(x[j]) <= 3.402823466e38f;
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, mask));
    return __all_sync(0xffffffff, finite) ? __fdiv_rn(largest, 127.0f) : __int_as_float(0x7fc00000);
}

// The signed byte next to x / scale, ties to even; any where the scale is not finite, 0 where it is 0.
__device__ __forceinline__ int8_t to_byte(float x, float scale) {
    return (int8_t)max(-127, min(127, __float2int_rn(__fdiv_rn(x, scale))));
}

template <class T> constexpr bool HAS_SCALES = sizeof(T) == 1;

// Loads a head of q as products with keys of the cache take it.
template <class T>
__device__ __forceinline__ void load_query(const Rope& rope, const float* head, int row, float (&x)[MAX_LANE_ELEMENTS]) {
    load_head(rope, head, row, true, x);
    if constexpr (HAS_SCALES<T>) {
        spread(x, rope.head_dim);
        const float factor = 1.0f / spread_width(rope.head_dim);
#pragma unroll
        for (int j = 0; j < MAX_LANE_ELEMENTS; j++) x[j] *= factor;
    }
}

// Loads a head of k as the cache keeps it.
template <class T>
__device__ __forceinline__ void load_key(const Rope& rope, const float* head, int row, float (&x)[MAX_LANE_ELEMENTS]) {
    load_head(rope, head, row, true, x);
    if constexpr (HAS_SCALES<T>) spread(x, rope.head_dim);
}

// Stores a head's elements `stride` apart. `half` is the half of a page that they belong to, `position` theirs in it.
template <class T>
__device__ __forceinline__ void store_head(uint8_t* half, int position, T* to, int stride, int head_dim,
                                           const float (&x)[MAX_LANE_ELEMENTS]) {
    const int lane = threadIdx.x % 32;
    float scale = 1.0f;
    if constexpr (HAS_SCALES<T>) {
        scale = byte_scale(x);
        if (lane == 0) reinterpret_cast<float*>(half + PAGE_POSITIONS * head_dim)[position] = scale;
    }
#pragma unroll
    for (int j = 0; j < MAX_LANE_ELEMENTS; j++) {
        if (lane + 32 * j >= head_dim) continue;
        if constexpr (HAS_SCALES<T>) {
            to[(lane + 32 * j) * stride] = to_byte(x[j], scale);
        } else {
            to[(lane + 32 * j) * stride] = __float2half_rn(x[j]);
        }
    }
}

// Stores a key, and a value, where they belong.
template <class T>
__device__ __forceinline__ void store_key(uint8_t* keys, int position, int head_dim, const float (&x)[MAX_LANE_ELEMENTS]) {
    store_head(keys, position, reinterpret_cast<T*>(keys) + position * head_dim, 1, head_dim, x);
}
template <class T>
__device__ __forceinline__ void store_value(uint8_t* values, int position, int head_dim,
                                            const float (&x)[MAX_LANE_ELEMENTS]) {
    store_head(values, position, reinterpret_cast<T*>(values) + position, PAGE_POSITIONS, head_dim, x);
}
