// The scales of a tile: a thread prepares those of a fourth of it for its two rows; four threads share a row.
#pragma once

#include "tile_layout.cuh"

__device__ __forceinline__ float half_bits_to_float(uint32_t bits) {
    return __half2float(__ushort_as_half((unsigned short)bits));
}

// What the thread with number `owner` among the four of a row has.
__device__ __forceinline__ __half2 from_owner(__half2 value, int lane, int owner) {
    return bits_to_half2(__shfl_sync(0xffffffff, half2_to_bits(value), (lane & ~3) | owner));
}

// None: weights are the numbers themselves.
struct NoScales {
    static constexpr int BYTES = 0;
    static constexpr bool SCALED = false, MINS = false;
    struct Raw {};
    struct Prepared {};

    static __device__ __forceinline__ Raw load(const uint8_t*, int) { return {}; }
    static __device__ __forceinline__ Prepared prepare(const Raw&, int) { return {}; }
    static __device__ __forceinline__ void get(const Prepared&, int, int, int, __half2&, __half2&) {}
};

// One f16 for each 32 columns: [row][8].
struct BlockScales {
    static constexpr int BYTES = TILE_ROWS * 16;
    static constexpr bool SCALED = true, MINS = false;
    struct Raw {
        uint32_t rows[2];
    };
    // Blocks 2t and 2t + 1 of both rows.
    struct Prepared {
        __half2 rows[2];
    };

    static __device__ __forceinline__ Raw load(const uint8_t* scales, int lane) {
        const uint8_t* at = scales + lane * 4;
        return {{load_weights<uint32_t>(at), load_weights<uint32_t>(at + BYTES / 2)}};
    }
    static __device__ __forceinline__ Prepared prepare(const Raw& raw, int) {
        __half2 factor = __float2half2_rn(WEIGHT_SCALE);
        return {{__hmul2(bits_to_half2(raw.rows[0]), factor), __hmul2(bits_to_half2(raw.rows[1]), factor)}};
    }
    static __device__ __forceinline__ void get(const Prepared& prepared, int block, int row, int lane, __half2& scale,
                                               __half2&) {
        __half2 both = from_owner(prepared.rows[row], lane, block / 2);
        scale = block % 2 ? __half2half2(__high2half(both)) : __half2half2(__low2half(both));
    }
};

// As prepared by BlockScales, from signed 8-bit factors [row][8] of an f16 for each row.
struct SuperScales {
    static constexpr int BYTES = TILE_ROWS * 8 + TILE_ROWS * 2;
    static constexpr bool SCALED = true, MINS = false;
    struct Raw {
        uint16_t factors[2], d[2];
    };
    using Prepared = BlockScales::Prepared;

    static __device__ __forceinline__ Raw load(const uint8_t* scales, int lane) {
        const uint8_t *factors = scales + lane * 2, *d = scales + TILE_ROWS * 8 + lane / 4 * 2;
        return {{load_weights<uint16_t>(factors), load_weights<uint16_t>(factors + 64)},
                {load_weights<uint16_t>(d), load_weights<uint16_t>(d + 16)}};
    }
    static __device__ __forceinline__ Prepared prepare(const Raw& raw, int) {
        Prepared prepared;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float d = half_bits_to_float(raw.d[row]) * WEIGHT_SCALE;
            prepared.rows[row] = __floats2half2_rn(d * (int8_t)raw.factors[row], d * (int8_t)(raw.factors[row] >> 8));
        }
        return prepared;
    }
    static __device__ __forceinline__ void get(const Prepared& prepared, int block, int row, int lane, __half2& scale,
                                               __half2& min) {
        BlockScales::get(prepared, block, row, lane, scale, min);
    }
};

// Scale and minimum of two blocks of both rows, as the affine types prepare them.
struct PreparedMins {
    __half2 rows[2][2];

    __device__ __forceinline__ void get(int block, int row, int lane, __half2& scale, __half2& min) const {
        __half2 both = from_owner(rows[row][block % 2], lane, block / 2);
        scale = __half2half2(__low2half(both));
        min = __half2half2(__high2half(both));
    }
};

// An f16 and a minimum for each 32 columns: [row][8][2].
struct BlockScalesMins {
    static constexpr int BYTES = TILE_ROWS * 32;
    static constexpr bool SCALED = true, MINS = true;
    struct Raw {
        uint2 rows[2];
    };
    using Prepared = PreparedMins;

    static __device__ __forceinline__ Raw load(const uint8_t* scales, int lane) {
        const uint8_t* at = scales + lane * 8;
        return {{load_weights<uint2>(at), load_weights<uint2>(at + BYTES / 2)}};
    }
    static __device__ __forceinline__ Prepared prepare(const Raw& raw, int) {
        __half2 factor = __float2half2_rn(WEIGHT_SCALE);
        Prepared prepared;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            prepared.rows[row][0] = __hmul2(bits_to_half2(raw.rows[row].x), factor);
            prepared.rows[row][1] = __hmul2(bits_to_half2(raw.rows[row].y), factor);
        }
        return prepared;
    }
    static __device__ __forceinline__ void get(const Prepared& prepared, int block, int row, int lane, __half2& scale,
                                               __half2& min) {
        prepared.get(block, row, lane, scale, min);
    }
};

// 6-bit factors and minima of each 32 columns, and d and dmin of a row, in four words of a row: word t has scale and
// minimum of blocks 2t and 2t + 1 in its low 24 bits, and byte t of (d, dmin) above them.
struct SuperScalesMins {
    static constexpr int BYTES = TILE_ROWS * 16;
    static constexpr bool SCALED = true, MINS = true;
    struct Raw {
        uint32_t rows[2];
    };
    using Prepared = PreparedMins;

    static __device__ __forceinline__ Raw load(const uint8_t* scales, int lane) {
        const uint8_t* at = scales + lane * 4;
        return {{load_weights<uint32_t>(at), load_weights<uint32_t>(at + BYTES / 2)}};
    }
    static __device__ __forceinline__ Prepared prepare(const Raw& raw, int lane) {
        Prepared prepared;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            uint32_t word = raw.rows[row], both = (word >> 24) << (lane % 4 * 8);
            both |= __shfl_xor_sync(0xffffffff, both, 1);
            both |= __shfl_xor_sync(0xffffffff, both, 2);
            float d = half_bits_to_float(both & 0xffff) * WEIGHT_SCALE;
            float dmin = half_bits_to_float(both >> 16) * -WEIGHT_SCALE;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float scale = d * (word >> (12 * i) & 63), min = dmin * (word >> (12 * i + 6) & 63);
                prepared.rows[row][i] = __floats2half2_rn(scale, min);
            }
        }
        return prepared;
    }
    static __device__ __forceinline__ void get(const Prepared& prepared, int block, int row, int lane, __half2& scale,
                                               __half2& min) {
        prepared.get(block, row, lane, scale, min);
    }
};

// Signed 8-bit factors of each 16 columns, [row][16], of an f16 for each row.
struct SuperScales16 {
    static constexpr int BYTES = TILE_ROWS * 16 + TILE_ROWS * 2;
    static constexpr bool SCALED = true, MINS = false;
    struct Raw {
        uint32_t factors[2];
        uint16_t d[2];
    };
    // Those of columns 64t on: (0, 1), (2, 3).
    struct Prepared {
        __half2 rows[2][2];
    };

    static __device__ __forceinline__ Raw load(const uint8_t* scales, int lane) {
        const uint8_t *factors = scales + lane * 4, *d = scales + TILE_ROWS * 16 + lane / 4 * 2;
        return {{load_weights<uint32_t>(factors), load_weights<uint32_t>(factors + 128)},
                {load_weights<uint16_t>(d), load_weights<uint16_t>(d + 16)}};
    }
    static __device__ __forceinline__ Prepared prepare(const Raw& raw, int) {
        Prepared prepared;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float d = half_bits_to_float(raw.d[row]) * WEIGHT_SCALE;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float low = d * (int8_t)(raw.factors[row] >> (16 * i)), high = d * (int8_t)(raw.factors[row] >> (16 * i + 8));
                prepared.rows[row][i] = __floats2half2_rn(low, high);
            }
        }
        return prepared;
    }
    static __device__ __forceinline__ void get(const Prepared& prepared, int block, int row, int lane, __half2& scale,
                                               __half2&) {
        __half2 both = from_owner(prepared.rows[row][block % 2], lane, block / 2);
        scale = lane % 4 / 2 ? __half2half2(__high2half(both)) : __half2half2(__low2half(both));
    }
};

// 4-bit factors and minima of each 16 columns, [row][16] bytes, and d and dmin of a row.
struct SuperScalesMins16 {
    static constexpr int BYTES = TILE_ROWS * 16 + TILE_ROWS * 4;
    static constexpr bool SCALED = true, MINS = true;
    struct Raw {
        uint32_t factors[2], d[2];
    };
    struct Prepared {
        __half2 rows[2][4];
    };

    static __device__ __forceinline__ Raw load(const uint8_t* scales, int lane) {
        const uint8_t *factors = scales + lane * 4, *d = scales + TILE_ROWS * 16 + lane / 4 * 4;
        return {{load_weights<uint32_t>(factors), load_weights<uint32_t>(factors + 128)},
                {load_weights<uint32_t>(d), load_weights<uint32_t>(d + 32)}};
    }
    static __device__ __forceinline__ Prepared prepare(const Raw& raw, int) {
        Prepared prepared;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float d = half_bits_to_float(raw.d[row] & 0xffff) * WEIGHT_SCALE;
            float dmin = half_bits_to_float(raw.d[row] >> 16) * -WEIGHT_SCALE;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t byte = raw.factors[row] >> (8 * i);
                prepared.rows[row][i] = __floats2half2_rn(d * (byte & 15), dmin * (byte >> 4 & 15));
            }
        }
        return prepared;
    }
    static __device__ __forceinline__ void get(const Prepared& prepared, int block, int row, int lane, __half2& scale,
                                               __half2& min) {
        __half2 first = from_owner(prepared.rows[row][block % 2 * 2], lane, block / 2);
        __half2 second = from_owner(prepared.rows[row][block % 2 * 2 + 1], lane, block / 2);
        __half2 both = lane % 4 / 2 ? second : first;
        scale = __half2half2(__low2half(both));
        min = __half2half2(__high2half(both));
    }
};
