// Products with few tokens, where weights stream from memory once and nothing else counts: four warps share a row of
// tiles, a slice of the columns each, and every thread keeps a tile's worth of loads (64 bytes in four-bit formats) in
// flight while it multiplies. Blocks walk through rows of tiles, and the loads never stop at the end of one.
//
// On an H200 (4.8 TB/s, 132 multiprocessors, 1.8 GHz) 20 bytes of weights arrive in a cycle on each multiprocessor: a
// warp has 49 issue slots for 16 four-bit weights of each of its threads, and needs about 32 (13 to unpack and scale 8
// weights, two multiplications, the rest loads). About 90 registers allow 20 warps, 40 KB in flight.
#include "matrix.cuh"

constexpr int FEW_THREADS = 32 * SLICES;

// `NT` fragments of 8 tokens. Sums of the block's warps lie in shared memory: [turn][slice][half][fragment][thread][4],
// `half` being gate or up.
template <int NT> struct FewTask {
    const Matrix& matrix;
    const uint4* x;
    const Output& output;
    const Normed& norm;
    float* shared;
    // Of the tokens, once they are found.
    float* factors;
    // The part and the rows of tiles of it that this block takes: first, first + stride, ...
    int part, first_row, row_tiles, stride;
    // Parts that are computed together: 2 when gated.
    int parts;
    int turn = 0;
    bool has_factors = false;

    // The tile at the start of this warp's slice in a row of tiles.
    template <class F> __device__ __forceinline__ const uint8_t* tile(int half, int row, int unit) const {
        return matrix.parts[part + half].tiles + ((size_t)row * matrix.units + unit) * F::BYTES;
    }

    template <class F> __device__ __forceinline__ void run() {
        const int lane = threadIdx.x % 32, slice = threadIdx.x / 32;
        const int begin = slice_start(matrix.units, slice), end = slice_start(matrix.units, slice + 1);
        typename F::Quarter ring[QUARTERS];
        typename F::Raw raw{};
        const uint8_t* here = tile<F>(0, first_row, begin);
        if (begin < end && first_row < row_tiles) {
            raw = F::load_scales(here, lane);
#pragma unroll
            for (int quarter = 0; quarter < QUARTERS; quarter++) ring[quarter] = F::load_quarter(here, quarter, lane);
        }
        if (!has_factors) {
            // While the weights are on their way.
            grid_dependency_wait();
            find_row_factors(output, norm, 0, NT * FRAGMENT_TOKENS, blockIdx.x == 0, factors);
            has_factors = true;
        }
        for (int row = first_row; row < row_tiles; row += stride) {
            for (int half = 0; half < parts; half++) {
                float sums[NT][4] = {};
                for (int unit = begin; unit < end; unit++) {
                    const uint8_t* next = here + F::BYTES;
                    if (unit + 1 == end) next = after<F>(row, half, begin);
                    multiply_tile<F>(sums, ring, raw, next, unit, lane);
                    here = next;
                }
                keep(sums, half, slice, lane);
            }
            __syncthreads();
            reduce(row);
            // The other half of the memory takes the next sums: nobody waits for who still reads these.
            turn ^= 1;
        }
    }

    // Where this warp goes on when a row of tiles ends; null at the end.
    template <class F> __device__ __forceinline__ const uint8_t* after(int row, int half, int begin) const {
        if (half + 1 < parts) return tile<F>(half + 1, row, begin);
        return row + stride < row_tiles ? tile<F>(0, row + stride, begin) : nullptr;
    }

    // Multiplies a tile and loads the one at `next` into the registers that become free.
    template <class F>
    __device__ __forceinline__ void multiply_tile(float (&sums)[NT][4], typename F::Quarter (&ring)[QUARTERS],
                                                  typename F::Raw& raw, const uint8_t* next, int unit, int lane) {
        typename F::Prepared scales = F::prepare(raw, lane);
        if (next) raw = F::load_scales(next, lane);
#pragma unroll
        for (int quarter = 0; quarter < QUARTERS; quarter++) {
#pragma unroll
            for (int b = 0; b < QUARTER_BLOCKS; b++) {
                const int block = quarter * QUARTER_BLOCKS + b;
                uint32_t weights[2][4];
                F::weights(ring[quarter], scales, block, lane, weights);
#pragma unroll
                for (int n = 0; n < NT; n++) multiply_block(sums[n], weights, operand(n, unit * TILE_BLOCKS + block, lane));
            }
            if (next) ring[quarter] = F::load_quarter(next, quarter, lane);
        }
    }

    // The thread's part of a fragment of the operand; nothing is read for tokens that are not there.
    __device__ __forceinline__ uint4 operand(int n, int block, int lane) const {
        if (n * FRAGMENT_TOKENS + lane / 4 >= (int)output.num_tokens) return make_uint4(0, 0, 0, 0);
        return x[((size_t)n * matrix.units * TILE_BLOCKS + block) * 32 + lane];
    }

    __device__ __forceinline__ float* sums_of(int slice, int half) const {
        return shared + ((turn * SLICES + slice) * 2 + half) * NT * 128;
    }

    __device__ __forceinline__ void keep(const float (&sums)[NT][4], int half, int slice, int lane) const {
        float4* to = reinterpret_cast<float4*>(sums_of(slice, half)) + lane;
#pragma unroll
        for (int n = 0; n < NT; n++) to[n * 32] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
    }

    // Adds the slices up, a thread for each row and token, neighbouring rows beside each other.
    __device__ __forceinline__ void reduce(int row_tile) const {
        const int row = threadIdx.x % TILE_ROWS, token = threadIdx.x / TILE_ROWS, out_row = row_tile * TILE_ROWS + row;
        const int place = (row % 8 * 4 + token / 2) * 4 + row / 8 * 2 + token % 2;
        const Part& first_part = matrix.parts[part];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const int out_token = n * FRAGMENT_TOKENS + token;
            const bool is_there = out_token < (int)output.num_tokens && out_row < (int)first_part.rows;
            const float first = total(0, n * 128 + place), factor = factors[out_token];
            float value = 0.0f;
            if (output.kind == GATE) {
                const float second = total(1, n * 128 + place);
                if (is_there) store_gated(output, matrix, out_token, out_row, first, second, factor);
            } else if (is_there) {
                value = store_output(output, first_part, out_token, out_row, first, factor);
            }
            if (output.kind != ADD || !norm.operand) continue;
            const float square = sum_of_lanes(__fmul_rn(value, value), TILE_ROWS);
            if (!is_there) continue;
            keep_normed(norm, out_token, out_row, value, factor);
            if (row == 0) norm.squares_of(out_token)[row_tile] = square;
        }
    }

    __device__ __forceinline__ float total(int half, int place) const {
        float sum = sums_of(0, half)[place];
#pragma unroll
        for (int slice = 1; slice < SLICES; slice++) sum += sums_of(slice, half)[place];
        return sum;
    }
};

// Blocks take the rows of tiles of all parts in turn, part after part; those of other formats are another launch's.
template <class F, int NT>
__device__ __forceinline__ void linear_few(const Matrix& matrix, const uint4* x, const Output& output, const Normed& norm) {
    __shared__ __align__(16) float shared[2 * SLICES * 2 * NT * 128];
    __shared__ float factors[NT * FRAGMENT_TOKENS];
    grid_dependency_launch();
    const bool gated = output.kind == GATE;
    FewTask<NT> task{matrix, x, output, norm, shared, factors, 0, (int)blockIdx.x, 0, (int)gridDim.x, gated ? 2 : 1};
    for (int part = 0; part < (gated ? 1 : (int)matrix.num_parts); part++) {
        task.part = part;
        task.row_tiles = (matrix.parts[part].rows + TILE_ROWS - 1) / TILE_ROWS;
        if (task.first_row < task.row_tiles) F::with(matrix.parts[part].kind, task);
        // The turns go on where the part ends.
        if (task.first_row < task.row_tiles) {
            task.first_row += (task.row_tiles - task.first_row + task.stride - 1) / task.stride * task.stride;
        }
        task.first_row -= task.row_tiles;
    }
}

#define LINEAR_FEW(name, fragments, blocks, ...)                                                                      \
    extern "C" __global__ void __launch_bounds__(FEW_THREADS, blocks)                                                 \
        name(const __grid_constant__ Matrix matrix, const uint4* x, const __grid_constant__ Output output,            \
             const __grid_constant__ Normed norm) {                                                                   \
        linear_few<Formats<__VA_ARGS__>, fragments>(matrix, x, output, norm);                                         \
    }                                                                                                                 \
    EXPORT_KERNEL(name)
#define LINEAR_FEW_OF_SET(set, ...)                                                                                   \
    LINEAR_FEW(linear_few_8_##set, 1, (Formats<__VA_ARGS__>::FEW_BLOCKS), __VA_ARGS__)                                                                 \
    LINEAR_FEW(linear_few_16_##set, 2, 3, __VA_ARGS__)

FOR_EACH_FORMAT_SET(LINEAR_FEW_OF_SET)
