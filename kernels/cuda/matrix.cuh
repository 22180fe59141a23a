// A packed weight matrix as the products see it, and what both of them share: the slices that columns are summed in,
// one block of a fragment multiplied, and where results go.
//
// Every output is ((s0 + s1) + s2) + s3, where s0 to s3 are sums over the four slices of its columns, each in ascending
// order by multiplications of depth 16. Both products keep to it, so that an output has the same bits however many
// tokens are computed beside it and whoever computes a slice.
#pragma once

#include "tile.cuh"

// Parts that may be stacked.
constexpr int MAX_PARTS = 4;
// Slices of the columns.
constexpr int SLICES = 4;
// Gated values may be far larger than others: as operands they are kept so many times smaller.
constexpr float GATED_SCALE = 1.0f / 64;

// Rows of one type: tiles of all columns, one row of tiles after the other.
struct Part {
    const uint8_t* tiles;
    uint32_t kind;
    uint32_t rows;
    // Where its outputs begin in a row of outputs.
    uint32_t first_output;
    // What sums are multiplied by: undoes WEIGHT_SCALE.
    float factor;
};

struct Matrix {
    Part parts[MAX_PARTS];
    uint32_t num_parts;
    // Tiles beside each other: padded columns / 256.
    uint32_t units;
};

// What becomes of the outputs.
enum OutputKind : uint32_t {
    // f32 (num_tokens, width), overwritten.
    STORE,
    // The same, added to.
    ADD,
    // silu(first part) * second part, an operand of `width` columns times GATED_SCALE.
    GATE,
};

struct Output {
    void* values;
    uint32_t kind;
    uint32_t width;
    uint32_t num_tokens;
    // What outputs are multiplied by: undoes the scale of the operand.
    float factor;
};

__device__ __forceinline__ int slice_start(int units, int slice) {
    return units * slice / SLICES;
}

__device__ __forceinline__ float silu(float x) {
    return x / (1.0f + __expf(-x));
}

// sums += 16 rows of weights by 8 tokens, over 32 columns. `x` is the thread's part of the operand's fragment.
__device__ __forceinline__ void multiply_block(float (&sums)[4], const uint32_t (&weights)[2][4], uint4 x) {
    uint32_t first[4] = {weights[0][0], weights[1][0], weights[0][1], weights[1][1]};
    uint32_t second[4] = {weights[0][2], weights[1][2], weights[0][3], weights[1][3]};
    uint32_t x_first[2] = {x.x, x.y}, x_second[2] = {x.z, x.w};
    mma_m16n8k16(sums, first, x_first);
    mma_m16n8k16(sums, second, x_second);
}

// One output where it belongs. `row` of the part.
__device__ __forceinline__ void store_output(const Output& output, const Part& part, int token, int row, float sum) {
    float value = sum * (part.factor * output.factor);
    float* at = static_cast<float*>(output.values) + (size_t)token * output.width + part.first_output + row;
    *at = output.kind == ADD ? *at + value : value;
}

// One gated value where it belongs.
__device__ __forceinline__ void store_gated(const Output& output, const Matrix& matrix, int token, int row, float gate,
                                            float up) {
    float value = silu(gate * (matrix.parts[0].factor * output.factor)) * (up * (matrix.parts[1].factor * output.factor));
    __half* values = static_cast<__half*>(output.values);
    values[operand_index(token, row, output.width)] = saturated_half(value * GATED_SCALE);
}
