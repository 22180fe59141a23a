// Products with many tokens: blocks of rows by tokens on the tensor cores. Operands are staged through shared memory by
// asynchronous copies, weights are loaded and dequantised by the warps that multiply them, two rows of tiles each, so
// that what is dequantised serves 32 or 64 tokens. When rows of tiles are too few to fill the card, four blocks take a
// slice of the columns each, and the last one to finish adds them up.
//
// A warp's 32 rows by 64 tokens are 32 multiplications of 6 cycles for each 32 columns, beside 52 instructions that
// unpack weights and 8 loads of shared memory: the tensor cores are what it waits for. Shared memory gives 16 KB for
// each 32 columns of 128 by 128, which is 256 of 384 cycles.
#include "matrix.cuh"

// Columns of a stage, and stages that are on their way.
constexpr int STAGE_BLOCKS = QUARTER_BLOCKS;
constexpr int STAGES = 4;
// Quarters of weights that are on their way to each warp: as many as registers allow.
template <class F, int NT> constexpr int MANY_RING = NT > 4 || sizeof(typename F::Quarter) > 32 ? 1 : 2;
// Rows of tiles of a warp: two neighbours, or gate and up of the same rows.
constexpr int WARP_TILES = 2;

// Partial sums of blocks that share an output, and how many have arrived, all zero between launches.
struct SplitScratch {
    float* sums;
    uint32_t* arrived;
};

template <int ROW_WARPS, int TOKEN_WARPS, int NT> struct ManyTask {
    static constexpr int THREADS = 32 * ROW_WARPS * TOKEN_WARPS;
    static constexpr int FRAGMENTS = TOKEN_WARPS * NT;
    static constexpr int TOKENS = FRAGMENTS * FRAGMENT_TOKENS;
    static constexpr int BLOCK_TILES = ROW_WARPS * WARP_TILES;
    static constexpr int STAGE_BYTES = FRAGMENTS * STAGE_BLOCKS * FRAGMENT_HALVES * 2;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
    static constexpr int SUMS = WARP_TILES * NT * 4;
    // Whether norms are made of outputs on their way; the larger kernel has no registers left for it.
    static constexpr bool MAKES_NORMS = NT <= 4;

    const Matrix& matrix;
    const uint8_t* x;
    const Output& output;
    const Normed& norm;
    const SplitScratch& scratch;
    uint8_t* shared;
    // Of the block's tokens.
    float* factors;
    // The part, this block's first row of tiles in it, and its first token.
    int part, first_tile, first_token;
    // Whether it takes all slices, or the one of blockIdx.z.
    bool whole;

    __device__ __forceinline__ bool gated() const { return output.kind == GATE; }

    // Row of tiles `i` of this warp, and whose it is.
    __device__ __forceinline__ int warp_tile(int i) const {
        int row_warp = threadIdx.x / 32 % ROW_WARPS;
        return gated() ? first_tile + row_warp : first_tile + row_warp * WARP_TILES + i;
    }
    __device__ __forceinline__ const Part& part_of(int i) const { return matrix.parts[gated() ? i : part]; }
    __device__ __forceinline__ int tiles_of_part() const {
        return (matrix.parts[part].rows + TILE_ROWS - 1) / TILE_ROWS;
    }

    // Copies a stage's columns of all tokens; nothing behind the last one.
    __device__ __forceinline__ void stage(int index, int end) const {
        if (index < end) {
            uint8_t* to = shared + index % STAGES * STAGE_BYTES;
            // 16 bytes at a time: fragment by fragment, whose stage is one run of memory.
            constexpr int RUN = STAGE_BLOCKS * FRAGMENT_HALVES * 2 / 16;
            const size_t fragment_bytes = (size_t)matrix.units * TILE_BLOCKS * FRAGMENT_HALVES * 2;
            const uint8_t* from = x + (size_t)(first_token / FRAGMENT_TOKENS) * fragment_bytes + (size_t)index * RUN * 16;
#pragma unroll
            for (int i = threadIdx.x; i < FRAGMENTS * RUN; i += THREADS) {
                cp_async_16(to + i * 16, from + i / RUN * fragment_bytes + i % RUN * 16);
            }
        }
        cp_async_commit();
    }

    template <class F> __device__ __forceinline__ void run() {
        float total[WARP_TILES][NT][4] = {};
        const int first = whole ? 0 : blockIdx.z, last = whole ? SLICES - 1 : blockIdx.z;
        const int begin = slice_start(matrix.units, first) * QUARTERS;
        const int end = slice_start(matrix.units, last + 1) * QUARTERS;
        for (int i = 0; i < STAGES - 1; i++) stage(begin + i, end);
        // While the operand is on its way.
        if (MAKES_NORMS) {
            find_row_factors(output, norm, first_token, TOKENS, blockIdx.x == 0 && blockIdx.z == 0, factors);
        }
        Weights<F> weights(*this, begin / QUARTERS, end / QUARTERS);
        for (int slice = first; slice <= last; slice++) {
            float sums[WARP_TILES][NT][4] = {};
            const int slice_end = slice_start(matrix.units, slice + 1);
            for (int unit = slice_start(matrix.units, slice); unit < slice_end; unit++) {
                multiply_unit<F>(sums, weights, unit, end);
            }
            add(total, sums, slice == first);
        }
        cp_async_wait<0>();
        finish(total);
    }

    // What a warp has of its weights: quarters on their way, and the scales of two units.
    template <class F> struct Weights {
        typename F::Quarter ring[WARP_TILES][MANY_RING<F, NT>];
        typename F::Raw raw[WARP_TILES];
        const uint8_t* tiles[WARP_TILES];
        int end;

        __device__ __forceinline__ Weights(const ManyTask& task, int begin, int end) : end(end) {
            const int lane = threadIdx.x % 32, last_tile = task.tiles_of_part() - 1;
#pragma unroll
            for (int i = 0; i < WARP_TILES; i++) {
                // Rows of tiles behind the last are computed as the last, and not stored.
                int tile = min(task.warp_tile(i), last_tile);
                tiles[i] = task.part_of(i).tiles + (size_t)tile * task.matrix.units * F::BYTES;
                if (begin < end) {
                    raw[i] = F::load_scales(tiles[i] + (size_t)begin * F::BYTES, lane);
#pragma unroll
                    for (int q = 0; q < MANY_RING<F, NT>; q++) {
                        ring[i][q] = F::load_quarter(tiles[i] + (size_t)begin * F::BYTES, q, lane);
                    }
                }
            }
        }

        // Loads the quarter that is `MANY_RING` places behind quarter `quarter` of `unit` into its place.
        __device__ __forceinline__ void refill(int unit, int quarter, int lane) {
            const int next = quarter + MANY_RING<F, NT>, next_unit = unit + next / QUARTERS;
            if (next_unit >= end) return;
#pragma unroll
            for (int i = 0; i < WARP_TILES; i++) {
                const uint8_t* tile = tiles[i] + (size_t)next_unit * F::BYTES;
                ring[i][quarter % MANY_RING<F, NT>] = F::load_quarter(tile, next % QUARTERS, lane);
            }
        }
    };

    template <class F>
    __device__ __forceinline__ void multiply_unit(float (&sums)[WARP_TILES][NT][4], Weights<F>& weights, int unit, int end) {
        const int lane = threadIdx.x % 32, token_warp = threadIdx.x / 32 / ROW_WARPS;
        typename F::Prepared scales[WARP_TILES];
#pragma unroll
        for (int i = 0; i < WARP_TILES; i++) {
            scales[i] = F::prepare(weights.raw[i], lane);
            if (unit + 1 < weights.end) {
                weights.raw[i] = F::load_scales(weights.tiles[i] + (size_t)(unit + 1) * F::BYTES, lane);
            }
        }
#pragma unroll
        for (int quarter = 0; quarter < QUARTERS; quarter++) {
            const int index = unit * QUARTERS + quarter;
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            // Everybody has left the stage that is filled now.
            stage(index + STAGES - 1, end);
            const uint4* fragments = reinterpret_cast<const uint4*>(shared + index % STAGES * STAGE_BYTES);
#pragma unroll
            for (int b = 0; b < QUARTER_BLOCKS; b++) {
                uint32_t w[WARP_TILES][2][4];
#pragma unroll
                for (int i = 0; i < WARP_TILES; i++) {
                    F::weights(weights.ring[i][quarter % MANY_RING<F, NT>], scales[i], quarter * QUARTER_BLOCKS + b, lane, w[i]);
                }
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    uint4 operand = fragments[((token_warp * NT + n) * STAGE_BLOCKS + b) * 32 + lane];
#pragma unroll
                    for (int i = 0; i < WARP_TILES; i++) multiply_block(sums[i][n], w[i], operand);
                }
            }
            weights.refill(unit, quarter, lane);
        }
    }

    __device__ __forceinline__ static void add(float (&total)[WARP_TILES][NT][4], const float (&sums)[WARP_TILES][NT][4],
                                               bool first) {
#pragma unroll
        for (int i = 0; i < WARP_TILES; i++) {
#pragma unroll
            for (int n = 0; n < NT; n++) {
#pragma unroll
                for (int c = 0; c < 4; c++) total[i][n][c] = first ? sums[i][n][c] : total[i][n][c] + sums[i][n][c];
            }
        }
    }

    // Stores a whole sum; or keeps a slice's, and stores when all slices have come.
    __device__ __forceinline__ void finish(float (&total)[WARP_TILES][NT][4]) const {
        if (!whole && !meet(total)) return;
        const int lane = threadIdx.x % 32, token_warp = threadIdx.x / 32 / ROW_WARPS;
        const bool keeps = MAKES_NORMS && output.kind == ADD && norm.operand;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int token = (token_warp * NT + n) * FRAGMENT_TOKENS + lane % 4 * 2 + c;
                // The rows lane / 4 and lane / 4 + 8 of both tiles.
                float values[WARP_TILES][2] = {};
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    store(token, lane / 4 + half * 8, total[0][n][c + half * 2], total[1][n][c + half * 2], values, half);
                }
                if (keeps) keep(token, values);
            }
        }
    }

    // Stores a row's sums of both tiles; `values` is what stands there now.
    __device__ __forceinline__ void store(int token, int row, float first, float second, float (&values)[WARP_TILES][2],
                                          int half) const {
        const int rows = matrix.parts[part].rows, out_token = first_token + token;
        const int first_row = warp_tile(0) * TILE_ROWS + row, second_row = warp_tile(1) * TILE_ROWS + row;
        if (out_token >= (int)output.num_tokens) return;
        const float factor = MAKES_NORMS ? factors[token] : found_row_factor(norm, out_token);
        if (gated()) {
            if (first_row < rows) store_gated(output, matrix, out_token, first_row, first, second, factor);
            return;
        }
        const Part& to = matrix.parts[part];
        if (first_row < rows) values[0][half] = store_output(output, to, out_token, first_row, first, factor);
        if (second_row < rows) values[1][half] = store_output(output, to, out_token, second_row, second, factor);
    }

    // Keeps what the residual stream has become for the next product.
    __device__ __forceinline__ void keep(int token, const float (&values)[WARP_TILES][2]) const {
        const int lane = threadIdx.x % 32, rows = matrix.parts[part].rows, out_token = first_token + token;
#pragma unroll
        for (int i = 0; i < WARP_TILES; i++) {
            // A tile's 16 rows in the order of sum_of_lanes: eight apart first.
            float square = __fadd_rn(__fmul_rn(values[i][0], values[i][0]), __fmul_rn(values[i][1], values[i][1]));
#pragma unroll
            for (int mask = 16; mask >= 4; mask /= 2) square = __fadd_rn(square, __shfl_xor_sync(0xffffffff, square, mask));
            if (out_token >= (int)output.num_tokens) continue;
            const int row = warp_tile(i) * TILE_ROWS + lane / 4;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (row + half * 8 < rows) keep_normed(norm, out_token, row + half * 8, values[i][half], factors[token]);
            }
            if (lane / 4 == 0 && row < rows) norm.squares_of(out_token)[warp_tile(i)] = square;
        }
    }

    // Whether this block is the last one of its output's slices; then `total` becomes the sum of all of them, in order.
    __device__ __forceinline__ bool meet(float (&total)[WARP_TILES][NT][4]) const {
        __shared__ uint32_t before;
        const size_t place = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
        float* sums = scratch.sums + place * SLICES * SUMS * THREADS;
        float* flat = &total[0][0][0];
#pragma unroll
        for (int i = 0; i < SUMS; i++) sums[((size_t)blockIdx.z * SUMS + i) * THREADS + threadIdx.x] = flat[i];
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) before = atomicAdd(scratch.arrived + place, 1u);
        __syncthreads();
        if (before + 1 < SLICES) return false;
        __threadfence();
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            float sum = __ldcg(sums + (size_t)i * THREADS + threadIdx.x);
            for (int slice = 1; slice < SLICES; slice++) {
                sum += __ldcg(sums + ((size_t)slice * SUMS + i) * THREADS + threadIdx.x);
            }
            flat[i] = sum;
        }
        if (threadIdx.x == 0) scratch.arrived[place] = 0;
        return true;
    }
};

// Blocks: x over rows of tiles of all parts, y over tokens, z over slices or 1. Parts of other formats are another
// launch's.
template <class F, int ROW_WARPS, int TOKEN_WARPS, int NT>
__device__ __forceinline__ void linear_many(const Matrix& matrix, const uint8_t* x, const Output& output,
                                            const Normed& norm, const SplitScratch& scratch) {
    using Task = ManyTask<ROW_WARPS, TOKEN_WARPS, NT>;
    DYNAMIC_SHARED(shared);
    __shared__ float factors[Task::MAKES_NORMS ? Task::TOKENS : 1];
    const int tiles = output.kind == GATE ? ROW_WARPS : Task::BLOCK_TILES;
    int block = blockIdx.x, part = 0;
    for (; output.kind != GATE && part + 1 < (int)matrix.num_parts; part++) {
        int blocks = (matrix.parts[part].rows + tiles * TILE_ROWS - 1) / (tiles * TILE_ROWS);
        if (block < blocks) break;
        block -= blocks;
    }
    grid_dependency_launch();
    grid_dependency_wait();
    const int first_token = (int)blockIdx.y * Task::TOKENS;
    Task task{matrix, x, output, norm, scratch, shared, factors, part, block * tiles, first_token, gridDim.z == 1};
    F::with(matrix.parts[part].kind, task);
}

#define LINEAR_MANY(name, row_warps, token_warps, fragments, blocks, ...)                                             \
    extern "C" __global__ void __launch_bounds__(32 * row_warps * token_warps, blocks)                                \
        name(const __grid_constant__ Matrix matrix, const uint8_t* x, const __grid_constant__ Output output,          \
             const __grid_constant__ Normed norm, const __grid_constant__ SplitScratch scratch) {                     \
        linear_many<Formats<__VA_ARGS__>, row_warps, token_warps, fragments>(matrix, x, output, norm, scratch);       \
    }                                                                                                                 \
    EXPORT_KERNEL(name)
// 64 rows (32 gated) by 64 tokens, and 128 (64) by 128.
#define LINEAR_MANY_OF_SET(set, ...)                                                                                  \
    LINEAR_MANY(linear_many_64_##set, 2, 2, 4, 2, __VA_ARGS__)                                                        \
    LINEAR_MANY(linear_many_128_##set, 4, 2, 8, 1, __VA_ARGS__)

FOR_EACH_FORMAT_SET(LINEAR_MANY_OF_SET)
