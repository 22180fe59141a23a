// The residual stream as the left factor of products. Of its norm, x / sqrt(mean(x^2) + eps) * weight, the root is one
// factor of a row, but known only where the row ends. So the product that adds to the stream leaves x * weight as an
// operand, and the squares of every 16 columns; the next one adds those up, and multiplies its outputs by the root.
//
// In an operand x * weight is multiplied by a power of two as well, taken from the row's root one norm before: a number is
// then about weight / 64, and may have grown four million times larger from one norm to the next and still is f16.
#pragma once

#include "operand.cuh"

// Columns whose squares are added up by who computes them.
constexpr int SQUARE_COLUMNS = 16;

// What lies beside the residual stream.
struct Normed {
    // x * weight * scale, an operand of `padded` columns. Null where there is no norm.
    __half* operand;
    // (num_tokens, columns / SQUARE_COLUMNS, rounded up).
    float* squares;
    // (num_tokens): what the operand is multiplied by.
    float* scales;
    // (num_tokens): 1 / sqrt(mean(x^2) + eps), found by whoever reads the operand first, or has made it of whole rows.
    float* roots;
    // Of the norm: (columns).
    const float* weight;
    uint32_t columns, padded;
    float eps;
    uint32_t unused;

    __device__ __forceinline__ float* squares_of(int token) const {
        return squares + (size_t)token * ((columns + SQUARE_COLUMNS - 1) / SQUARE_COLUMNS);
    }
};

__device__ __forceinline__ float sum_of_lanes(float value, int lanes) {
#pragma unroll
    for (int mask = lanes / 2; mask > 0; mask /= 2) value = __fadd_rn(value, __shfl_xor_sync(0xffffffff, value, mask));
    return value;
}

// The power of two for a row whose root was this.
__device__ __forceinline__ float operand_scale(float root) {
    return __int_as_float(__float_as_int(root) & 0x7f800000) * (1.0f / 64);
}

// A row's root from its squares, the same for all lanes of the warp.
__device__ __forceinline__ float row_root(const Normed& norm, int token) {
    const float* squares = norm.squares_of(token);
    float sum = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x % 32; i * SQUARE_COLUMNS < (int)norm.columns; i += 32) sum = __fadd_rn(sum, squares[i]);
    return 1.0f / sqrtf(sum_of_lanes(sum, 32) / norm.columns + norm.eps);
}

// What becomes of the value of a column of the stream for the next product.
__device__ __forceinline__ void keep_normed(const Normed& norm, int token, int column, float value, float scale) {
    norm.operand[operand_index(token, column, norm.padded)] = saturated_half(__fmul_rn(value, norm.weight[column]) * scale);
}
