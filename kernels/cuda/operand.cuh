// The left factor of every product: f16 in the order in which the tensor cores take it, so that a warp reads what one
// multiplication needs as 512 neighbouring bytes, from device memory and from shared memory alike.
#pragma once

#include "device.cuh"

// Columns of a product's unit: operands and weights are padded with zeros to multiples of it.
constexpr int UNIT_COLUMNS = 256;
// Columns that one thread of a fragment holds: eight neighbours, for two multiplications of depth 16.
constexpr int LANE_COLUMNS = 8;
// Columns of one block: four threads beside each other.
constexpr int BLOCK_COLUMNS = 32;
// Tokens of one fragment.
constexpr int FRAGMENT_TOKENS = 8;
// Halves of the fragment of one block of columns.
constexpr int FRAGMENT_HALVES = FRAGMENT_TOKENS * BLOCK_COLUMNS;

// Where an element lies: (token / 8, column / 32, token % 8, column % 32). `columns` is padded.
__device__ __forceinline__ size_t operand_index(int token, int column, int columns) {
    size_t block = (size_t)(token / FRAGMENT_TOKENS) * (columns / BLOCK_COLUMNS) + column / BLOCK_COLUMNS;
    return block * FRAGMENT_HALVES + token % FRAGMENT_TOKENS * BLOCK_COLUMNS + column % BLOCK_COLUMNS;
}

// To f16, at its largest where it would be infinite.
__device__ __forceinline__ __half saturated_half(float x) {
    return __float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f));
}
