// Weights as they lie on the card: tiles of 16 rows by 256 columns, each thread's part of a tensor core fragment in
// neighbouring bytes, so that a warp's load is one run of memory. A tile is planes of integers, then scales; its bytes
// are those of the GGUF blocks (a few more for three rare types). Dequantised in registers, to f16.
//
// In a tile, thread `lane` has rows `lane / 4` and `lane / 4 + 8`, and of every block of 32 columns the eight from
// `lane % 4 * 8` on: two multiplications of depth 16, whose order of columns is free as long as both factors agree.
#pragma once

#include "operand.cuh"

constexpr int TILE_ROWS = 16;
// Blocks of 32 columns in a tile, and in a quarter of it, which is what is loaded at once.
constexpr int TILE_BLOCKS = UNIT_COLUMNS / BLOCK_COLUMNS;
constexpr int QUARTERS = 4;
constexpr int QUARTER_BLOCKS = TILE_BLOCKS / QUARTERS;
// Weights are dequantised so many times too large: f16 has its smallest exact numbers where small weights are.
constexpr float WEIGHT_SCALE = 256.0f;

// ---- Integers: `pair<BLOCK>(quarter, row, p)` is columns 2p and 2p + 1 of the eight, exact in f16. ----

// 1024 in both halves: integers below 1024 in the low bits are added to it.
constexpr uint32_t MAGIC = 0x64006400;

__device__ __forceinline__ __half2 bits_to_half2(uint32_t bits) {
    return *reinterpret_cast<const __half2*>(&bits);
}

__device__ __forceinline__ uint32_t half2_to_bits(__half2 value) {
    return *reinterpret_cast<const uint32_t*>(&value);
}

// Integers in the low bits of both halves, less an offset.
template <int OFFSET> __device__ __forceinline__ __half2 integers(uint32_t bits) {
    return __hsub2(bits_to_half2(bits | MAGIC), __float2half2_rn(1024.0f + OFFSET));
}

// Two of a word's bytes, less an offset. `odd`: the upper two.
template <int OFFSET> __device__ __forceinline__ __half2 byte_pair(uint32_t word, bool odd) {
    return __hsub2(bits_to_half2(__byte_perm(word, MAGIC >> 8, odd ? 0x4342 : 0x4140)), __float2half2_rn(1024.0f + OFFSET));
}

__device__ __forceinline__ uint32_t word_of(uint4 words, int index) {
    return index == 0 ? words.x : index == 1 ? words.y : index == 2 ? words.z : words.w;
}

__device__ __forceinline__ uint32_t shifted(uint32_t word, int right) {
    return right >= 0 ? word >> right : word << -right;
}

template <class T> __device__ __forceinline__ T load_weights(const uint8_t* at) {
    return __ldcs(reinterpret_cast<const T*>(at));
}

// Four bits: word (block, row); column 2p at bits 4p, column 2p + 1 at bits 16 + 4p.
struct NibblePlane {
    static constexpr int BYTES = 2048;
    using Quarter = uint4;

    static __device__ __forceinline__ Quarter load(const uint8_t* plane, int quarter, int lane) {
        return load_weights<uint4>(plane + quarter * 512 + lane * 16);
    }
    static __device__ __forceinline__ uint32_t bits(const Quarter& quarter, int block, int row, int p) {
        return (word_of(quarter, block * 2 + row) >> 4 * p) & 0x000f000f;
    }
};

// Two bits, `AT` being where they belong: a word for each block; column 2p of row r at bits 8r + 2p, column 2p + 1 at
// 16 bits more.
template <int AT> struct PairPlane {
    static constexpr int BYTES = 1024;
    using Quarter = uint2;

    static __device__ __forceinline__ Quarter load(const uint8_t* plane, int quarter, int lane) {
        return load_weights<uint2>(plane + quarter * 256 + lane * 8);
    }
    static __device__ __forceinline__ uint32_t bits(const Quarter& quarter, int block, int row, int p) {
        return shifted(block == 0 ? quarter.x : quarter.y, 8 * row + 2 * p - AT) & (0x00030003u << AT);
    }
};

// One bit: a word for two blocks; column 2p of row r of block b at bit 8b + 4r + p, column 2p + 1 at 16 bits more.
template <int AT> struct BitPlane {
    static constexpr int BYTES = 512;
    using Quarter = uint32_t;

    static __device__ __forceinline__ Quarter load(const uint8_t* plane, int quarter, int lane) {
        return load_weights<uint32_t>(plane + quarter * 128 + lane * 4);
    }
    static __device__ __forceinline__ uint32_t bits(const Quarter& quarter, int block, int row, int p) {
        return shifted(quarter, 8 * block + 4 * row + p - AT) & (0x00010001u << AT);
    }
};

// Integers of one plane.
template <class Plane, int OFFSET> struct OnePlane {
    static constexpr int BYTES = Plane::BYTES;
    using Quarter = typename Plane::Quarter;

    static __device__ __forceinline__ Quarter load(const uint8_t* tile, int quarter, int lane) {
        return Plane::load(tile, quarter, lane);
    }
    static __device__ __forceinline__ __half2 pair(const Quarter& quarter, int block, int row, int p) {
        return integers<OFFSET>(Plane::bits(quarter, block, row, p));
    }
};

// Integers of two planes for different bits.
template <class Low, class High, int OFFSET> struct TwoPlanes {
    static constexpr int BYTES = Low::BYTES + High::BYTES;
    struct Quarter {
        typename Low::Quarter low;
        typename High::Quarter high;
    };

    static __device__ __forceinline__ Quarter load(const uint8_t* tile, int quarter, int lane) {
        return {Low::load(tile, quarter, lane), High::load(tile + Low::BYTES, quarter, lane)};
    }
    static __device__ __forceinline__ __half2 pair(const Quarter& quarter, int block, int row, int p) {
        return integers<OFFSET>(Low::bits(quarter.low, block, row, p) | High::bits(quarter.high, block, row, p));
    }
};

// Bytes with 128 added: words (block, row, half of the eight columns).
struct Bytes {
    static constexpr int BYTES = 4096;
    struct Quarter {
        uint4 blocks[QUARTER_BLOCKS];
    };

    static __device__ __forceinline__ Quarter load(const uint8_t* tile, int quarter, int lane) {
        const uint8_t* at = tile + quarter * 1024 + lane * 16;
        return {{load_weights<uint4>(at), load_weights<uint4>(at + 512)}};
    }
    static __device__ __forceinline__ __half2 pair(const Quarter& quarter, int block, int row, int p) {
        return byte_pair<128>(word_of(quarter.blocks[block], row * 2 + p / 2), p % 2);
    }
};

// Four bits that stand for one of 16 values: word (block, row), column k at bits 4k. The values lie in four words, with
// 128 added; a byte permutation looks four of them up in each half of the table, a third one chooses by the top bit.
struct IndexedNibbles {
    static constexpr int BYTES = NibblePlane::BYTES;
    using Quarter = NibblePlane::Quarter;

    static __device__ __forceinline__ Quarter load(const uint8_t* tile, int quarter, int lane) {
        return NibblePlane::load(tile, quarter, lane);
    }
    static __device__ __forceinline__ __half2 pair(const Quarter& quarter, int block, int row, int p) {
        // -127 -104 -83 -65 | -49 -35 -22 -10 | 1 13 25 38 | 53 69 89 113, each + 128.
        constexpr uint32_t TABLE[4] = {0x3f2d1801, 0x766a5d4f, 0xa6998d81, 0xf1d9c5b5};
        uint32_t places = word_of(quarter, block * 2 + row) >> (p / 2 * 16);
        uint32_t select = places & 0x7777;
        uint32_t low = __byte_perm(TABLE[0], TABLE[1], select), high = __byte_perm(TABLE[2], TABLE[3], select);
        uint32_t values = __byte_perm(low, high, 0x3210 | (places & 0x8888) >> 1);
        return byte_pair<128>(values, p % 2);
    }
};

// f16 as it is: (block, row), eight columns.
struct Halves {
    static constexpr int BYTES = 8192;
    struct Quarter {
        uint4 rows[QUARTER_BLOCKS * 2];
    };

    static __device__ __forceinline__ Quarter load(const uint8_t* tile, int quarter, int lane) {
        const uint8_t* at = tile + quarter * 2048 + lane * 16;
        return {{load_weights<uint4>(at), load_weights<uint4>(at + 512), load_weights<uint4>(at + 1024),
                 load_weights<uint4>(at + 1536)}};
    }
    static __device__ __forceinline__ __half2 pair(const Quarter& quarter, int block, int row, int p) {
        return bits_to_half2(word_of(quarter.rows[block * 2 + row], p));
    }
};

// ---- Scales: a thread prepares those of a fourth of the tile for its two rows; four threads share a row. ----

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

// ---- Formats ----

// The formats' numbers, as the host gives them.
enum TileKind : uint32_t { F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS };

template <TileKind NUMBER, class Integers, class Scales> struct Format {
    static constexpr TileKind KIND = NUMBER;
    // Every tile is whole lines of 32 bytes, and begins at one.
    static constexpr int BYTES = Integers::BYTES + Scales::BYTES;
    static_assert(BYTES % 32 == 0, "tiles begin at sectors");
    using Quarter = typename Integers::Quarter;
    using Raw = typename Scales::Raw;
    using Prepared = typename Scales::Prepared;

    static __device__ __forceinline__ Quarter load_quarter(const uint8_t* tile, int quarter, int lane) {
        return Integers::load(tile, quarter, lane);
    }
    static __device__ __forceinline__ Raw load_scales(const uint8_t* tile, int lane) {
        return Scales::load(tile + Integers::BYTES, lane);
    }
    static __device__ __forceinline__ Prepared prepare(const Raw& raw, int lane) { return Scales::prepare(raw, lane); }

    // The weights of block `block` of the tile, which is block `block % 2` of its quarter: [row][pair].
    static __device__ __forceinline__ void weights(const Quarter& quarter, const Prepared& prepared, int block, int lane,
                                                   uint32_t (&out)[2][4]) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            __half2 scale, min;
            Scales::get(prepared, block, row, lane, scale, min);
#pragma unroll
            for (int p = 0; p < 4; p++) {
                __half2 pair = Integers::pair(quarter, block % QUARTER_BLOCKS, row, p);
                if constexpr (Scales::MINS) {
                    pair = __hfma2(pair, scale, min);
                } else if constexpr (Scales::SCALED) {
                    pair = __hmul2(pair, scale);
                }
                out[row][p] = half2_to_bits(pair);
            }
        }
    }
};

using TileQ4_0 = Format<Q4_0, OnePlane<NibblePlane, 8>, BlockScales>;
using TileQ4_1 = Format<Q4_1, OnePlane<NibblePlane, 0>, BlockScalesMins>;
using TileQ5_0 = Format<Q5_0, TwoPlanes<NibblePlane, BitPlane<4>, 16>, BlockScales>;
using TileQ5_1 = Format<Q5_1, TwoPlanes<NibblePlane, BitPlane<4>, 0>, BlockScalesMins>;
using TileQ8_0 = Format<Q8_0, Bytes, BlockScales>;
using TileQ2_K = Format<Q2_K, OnePlane<PairPlane<0>, 0>, SuperScalesMins16>;
using TileQ3_K = Format<Q3_K, TwoPlanes<PairPlane<0>, BitPlane<2>, 4>, SuperScales16>;
using TileQ4_K = Format<Q4_K, OnePlane<NibblePlane, 0>, SuperScalesMins>;
using TileQ5_K = Format<Q5_K, TwoPlanes<NibblePlane, BitPlane<4>, 0>, SuperScalesMins>;
using TileQ6_K = Format<Q6_K, TwoPlanes<NibblePlane, PairPlane<4>, 32>, SuperScales16>;
using TileIQ4_NL = Format<IQ4_NL, IndexedNibbles, BlockScales>;
using TileIQ4_XS = Format<IQ4_XS, IndexedNibbles, SuperScales>;
using TileF16 = Format<F16, Halves, NoScales>;

// Formats that one kernel is compiled for.
template <class... F> struct Formats {
    // Blocks of the product with few tokens whose registers fit into a multiprocessor.
    static constexpr int FEW_BLOCKS = (sizeof...(F) > 1 || (... || (F::KIND == F16 || F::KIND == Q8_0))) ? 4 : 5;

    // Calls `task.template run<Format>()` of the format with this number, if it is one of them.
    template <class Task> static __device__ __forceinline__ void with(uint32_t kind, Task& task) {
        ((kind == F::KIND ? (task.template run<F>(), true) : false) || ...);
    }
};

// Every set of formats that products have a kernel for: each format, and together what files mix in one product. More
// than two in a kernel cost registers in all of them.
#define FOR_EACH_FORMAT_SET(do)                                                                                       \
    do(q4_k_q6_k, TileQ4_K, TileQ6_K) do(q5_k_q6_k, TileQ5_K, TileQ6_K) do(q2_k, TileQ2_K) do(q3_k, TileQ3_K)         \
    do(q8_0, TileQ8_0) do(q4_0, TileQ4_0) do(q4_1, TileQ4_1) do(q5_0, TileQ5_0) do(q5_1, TileQ5_1)                     \
    do(iq4_nl, TileIQ4_NL) do(iq4_xs, TileIQ4_XS) do(f16, TileF16)
