// The integers of a tile: `pair<BLOCK>(quarter, row, p)` is columns 2p and 2p + 1 of a thread's eight, exact in f16.
#pragma once

#include "tile_layout.cuh"

// 1024 in both halves: integers below 1024 in the low bits are added to it.
constexpr uint32_t MAGIC = 0x64006400;

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
