// A packed weight matrix as the products see it, and what both of them share: the slices that columns are summed in,
// one block of a fragment multiplied, and where results go.
//
// Every output is ((s0 + s1) + s2) + s3, where s0 to s3 are sums over the four slices of its columns, each in ascending
// order by multiplications of depth 16. Both products keep to it, so that an output has the same bits however many
// tokens are computed beside it and whoever computes a slice.
#pragma once

#include "norm.cuh"
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

// The number that goes with a token's outputs, the same for all lanes of the warp. Of a product that adds to the residual
// stream: the scale of the operand it makes for the next norm. Of others: the root of the norm that their operand is of,
// over its scale. `keeps`: whether this warp leaves them for the products that follow.
__device__ __forceinline__ float row_factor(const Output& output, const Normed& norm, int token, bool keeps) {
    if (!norm.operand || token >= (int)output.num_tokens) return 1.0f;
    keeps = keeps && threadIdx.x % 32 == 0;
    if (output.kind == ADD) {
        const float scale = operand_scale(norm.roots[token]);
        if (keeps) norm.scales[token] = scale;
        return scale;
    }
    const float root = row_root(norm, token);
    if (keeps) norm.roots[token] = root;
    return root / norm.scales[token];
}

// That of an operand of a norm whose roots are known already.
__device__ __forceinline__ float found_row_factor(const Normed& norm, int token) {
    return norm.operand ? norm.roots[token] / norm.scales[token] : 1.0f;
}

// Those of `count` tokens, found by all warps of the block.
__device__ __forceinline__ void find_row_factors(const Output& output, const Normed& norm, int first_token, int count,
                                                 bool keeps, float* factors) {
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < count; i += (int)blockDim.x / 32) {
        const float factor = row_factor(output, norm, first_token + i, keeps);
        if (threadIdx.x % 32 == 0) factors[i] = factor;
    }
}

// One output where it belongs. `row` of the part. Returns what stands there now.
__device__ __forceinline__ float store_output(const Output& output, const Part& part, int token, int row, float sum,
                                              float row_factor) {
    float* at = static_cast<float*>(output.values) + (size_t)token * output.width + part.first_output + row;
    const float factor = part.factor * output.factor;
    *at = output.kind == ADD ? __fmaf_rn(sum, factor, *at) : sum * (factor * row_factor);
    return *at;
}

// One gated value where it belongs.
__device__ __forceinline__ void store_gated(const Output& output, const Matrix& matrix, int token, int row, float gate,
                                            float up, float row_factor) {
    const float factor = output.factor * row_factor;
    float value = silu(gate * (matrix.parts[0].factor * factor)) * (up * (matrix.parts[1].factor * factor));
    __half* values = static_cast<__half*>(output.values);
    values[operand_index(token, row, output.width)] = saturated_half(value * GATED_SCALE);
}
