// Numbers of attention: exponentials, f16 pairs, and the elements of the cache as the halves that products take.
#pragma once

#include <cmath>

#include "rope.cuh"

namespace attention {

__device__ __forceinline__ float exp_2(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

__device__ __forceinline__ uint32_t pack_halves(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// To f16, at its largest where it would be infinite; what is no number stays none.
__device__ __forceinline__ float limited(float x) {
    return x != x ? x : fminf(fmaxf(x, -65504.0f), 65504.0f);
}

// f16.
struct Halves {
    // What the cache keeps.
    using Stored = __half;
    static constexpr int BYTES = 2;
    static constexpr bool SCALED = false;
    // What weights are multiplied by.
    static constexpr float WEIGHT_FACTOR = 1.0f;

    static __device__ __forceinline__ uint4 load(const unsigned char* shared) {
        return *reinterpret_cast<const uint4*>(shared);
    }
};

// Signed bytes with a scale for each position and head.
struct Bytes {
    using Stored = int8_t;
    static constexpr int BYTES = 1;
    static constexpr bool SCALED = true;
    // Weights times scales are at most this in f16 for scales up to 255, and precise for scales down to 1e-6.
    static constexpr float WEIGHT_FACTOR = 256.0f;

    // Four bytes b become the halves 1024 + (b + 128), from which 1152 is taken, all exact.
    static __device__ __forceinline__ void widen(uint32_t bytes, uint32_t& low, uint32_t& high) {
        const uint32_t shifted = bytes ^ 0x80808080u;
        const __half2 offset = __float2half2_rn(1152.0f);
        uint32_t pairs[2] = {__byte_perm(shifted, 0x64646464u, 0x4140), __byte_perm(shifted, 0x64646464u, 0x4342)};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const __half2 pair = __hsub2(*reinterpret_cast<const __half2*>(&pairs[i]), offset);
            pairs[i] = *reinterpret_cast<const uint32_t*>(&pair);
        }
        low = pairs[0];
        high = pairs[1];
    }

    static __device__ __forceinline__ uint4 load(const unsigned char* shared) {
        const uint2 bytes = *reinterpret_cast<const uint2*>(shared);
        uint4 halves;
        widen(bytes.x, halves.x, halves.y);
        widen(bytes.y, halves.z, halves.w);
        return halves;
    }
};

} // namespace attention
