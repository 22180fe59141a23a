// Rows of f32 made into operands of products, normed on the way or as they are.
#include "matrix.cuh"

constexpr int OPERAND_THREADS = 256;

// The sum of a value over the block's threads, the same for all, in a fixed order.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float sums[OPERAND_THREADS / 32];
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffff, value, mask);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < OPERAND_THREADS / 32; i++) sum += sums[i];
    return sum;
}

// x / sqrt(mean(x^2) + eps) * weight of a block's row. x: f32 (num_tokens, columns); weight: f32 (columns), or null for
// rows as they are; out: operand of columns padded with zeros to `padded`.
extern "C" __global__ void __launch_bounds__(OPERAND_THREADS)
    make_operand(const float* x, const float* weight, __half* out, uint32_t columns, uint32_t padded, float eps) {
    const float* row = x + (size_t)blockIdx.x * columns;
    float factor = 1.0f;
    if (weight) {
        float squares = 0.0f;
        for (int i = threadIdx.x; i < (int)columns; i += OPERAND_THREADS) squares += row[i] * row[i];
        factor = 1.0f / sqrtf(block_sum(squares) / columns + eps);
    }
    // An operand's memory is shared by products of other widths: its padding is written, too.
    for (int i = threadIdx.x; i < (int)padded; i += OPERAND_THREADS) {
        float value = i >= (int)columns ? 0.0f : weight ? row[i] * factor * weight[i] : row[i];
        out[operand_index(blockIdx.x, i, padded)] = saturated_half(value);
    }
}
EXPORT_KERNEL(make_operand)

// silu(gate) * up of a block's row of gate, then up, times GATED_SCALE. x: f32 (num_tokens, 2 * columns); out: operand of
// columns padded to `padded`, whose padding stays zero.
extern "C" __global__ void __launch_bounds__(OPERAND_THREADS)
    gate_operand(const float* x, __half* out, uint32_t columns, uint32_t padded) {
    const float* gate = x + (size_t)blockIdx.x * 2 * columns;
    for (int i = threadIdx.x; i < (int)columns; i += OPERAND_THREADS) {
        float value = silu(gate[i]) * gate[columns + i];
        out[operand_index(blockIdx.x, i, padded)] = saturated_half(value * GATED_SCALE);
    }
}
EXPORT_KERNEL(gate_operand)
