// How weights lie on the card, and how they are read.
//
// Tiles of 16 rows by 256 columns: each thread's part of a tensor core fragment in neighbouring bytes, so that a warp's
// load is one run of memory. A tile is planes of integers, then scales; its bytes are those of the GGUF blocks (a few
// more for three rare types). Dequantised in registers, to f16.
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

__device__ __forceinline__ __half2 bits_to_half2(uint32_t bits) {
    return *reinterpret_cast<const __half2*>(&bits);
}

__device__ __forceinline__ uint32_t half2_to_bits(__half2 value) {
    return *reinterpret_cast<const uint32_t*>(&value);
}

template <class T> __device__ __forceinline__ T load_weights(const uint8_t* at) {
    return __ldcs(reinterpret_cast<const T*>(at));
}
