// Small operations on rows of f32: some rows moved to the front, a bias added, single heads normed.
#include "step.cuh"

constexpr int ROWS_THREADS = 128;
// Rows whose loads are under way together.
constexpr int ROWS_AHEAD = 8;

// Moves the rows `from[0..counts->rows]`, ascending, to the front of x, (num_tokens, columns). A thread has a column to
// itself and goes upwards: row i is written when no row before from[i] >= i is wanted any more.
extern "C" __global__ void __launch_bounds__(ROWS_THREADS)
    keep_rows(float* x, const uint32_t* from, const StepCounts* counts, uint32_t columns) {
    const uint32_t column = blockIdx.x * ROWS_THREADS + threadIdx.x;
    if (column >= columns) return;
    const uint32_t rows = counts->rows;
    for (uint32_t first = 0; first < rows; first += ROWS_AHEAD) {
        float values[ROWS_AHEAD];
#pragma unroll
        for (int i = 0; i < ROWS_AHEAD; i++) {
            if (first + i < rows) values[i] = x[(size_t)from[first + i] * columns + column];
        }
#pragma unroll
        for (int i = 0; i < ROWS_AHEAD; i++) {
            if (first + i < rows) x[(size_t)(first + i) * columns + column] = values[i];
        }
    }
}
EXPORT_KERNEL(keep_rows)

// x[i] += bias for rows of `columns` elements; `len` in all.
extern "C" __global__ void __launch_bounds__(ROWS_THREADS)
    add_bias(float* x, const float* bias, uint32_t columns, uint32_t len) {
    for (uint32_t i = blockIdx.x * ROWS_THREADS + threadIdx.x; i < len; i += gridDim.x * ROWS_THREADS) {
        x[i] += bias[i % columns];
    }
}
EXPORT_KERNEL(add_bias)

// Root-mean-square norm of heads in place, a warp for each: heads first_head..first_head + num_heads of every row of x,
// (num_tokens, columns). weight: (head_dim).
extern "C" __global__ void __launch_bounds__(ROWS_THREADS)
    head_norm(float* x, const float* weight, uint32_t num_tokens, uint32_t columns, uint32_t first_head,
              uint32_t num_heads, uint32_t head_dim, float eps) {
    const uint32_t i = blockIdx.x * (ROWS_THREADS / 32) + threadIdx.x / 32;
    if (i >= num_tokens * num_heads) return;
    float* head = x + (size_t)(i / num_heads) * columns + (first_head + i % num_heads) * head_dim;
    float squares = 0.0f;
    for (uint32_t e = threadIdx.x % 32; e < head_dim; e += 32) squares = __fmaf_rn(head[e], head[e], squares);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) squares += __shfl_xor_sync(0xffffffff, squares, mask);
    const float factor = 1.0f / sqrtf(squares / head_dim + eps);
    for (uint32_t e = threadIdx.x % 32; e < head_dim; e += 32) head[e] = head[e] * factor * weight[e];
}
EXPORT_KERNEL(head_norm)
