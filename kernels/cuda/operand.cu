// Rows of f32 made into operands of products.
#include "matrix.cuh"

constexpr int OPERAND_THREADS = 256;

// A block's row as it is. x: f32 (num_tokens, columns); out: operand of columns padded with zeros to `padded`.
extern "C" __global__ void __launch_bounds__(OPERAND_THREADS)
    make_operand(const float* x, __half* out, uint32_t columns, uint32_t padded) {
    const float* row = x + (size_t)blockIdx.x * columns;
    // An operand's memory is shared by products of other widths: its padding is written, too.
    for (int i = threadIdx.x; i < (int)padded; i += OPERAND_THREADS) {
        out[operand_index(blockIdx.x, i, padded)] = saturated_half(i < (int)columns ? row[i] : 0.0f);
    }
}
EXPORT_KERNEL(make_operand)

// What a product that adds to the residual stream leaves beside it, and the root, of a block's row; where no product has
// made the row (`is_first`), with its own root for the one before. x: f32 (num_tokens, columns).
extern "C" __global__ void __launch_bounds__(OPERAND_THREADS)
    norm_rows(const float* x, const __grid_constant__ Normed norm, uint32_t is_first) {
    const int columns = norm.columns;
    const float* row = x + (size_t)blockIdx.x * columns;
    for (int first = 0; first < columns; first += OPERAND_THREADS) {
        const int i = first + (int)threadIdx.x;
        const float value = i < columns ? row[i] : 0.0f, square = sum_of_lanes(__fmul_rn(value, value), SQUARE_COLUMNS);
        if (i % SQUARE_COLUMNS == 0 && i < columns) norm.squares_of(blockIdx.x)[i / SQUARE_COLUMNS] = square;
    }
    const float before = norm.roots[blockIdx.x];
    __threadfence_block();
    __syncthreads();
    const float root = row_root(norm, blockIdx.x), scale = operand_scale(is_first ? root : before);
    if (threadIdx.x == 0) {
        norm.scales[blockIdx.x] = scale;
        norm.roots[blockIdx.x] = root;
    }
    for (int i = threadIdx.x; i < columns; i += OPERAND_THREADS) keep_normed(norm, blockIdx.x, i, row[i], scale);
}
EXPORT_KERNEL(norm_rows)

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
