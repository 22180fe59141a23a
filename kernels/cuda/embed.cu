// Token embedding: rows of a packed table, dequantised.
#include "matrix.cuh"

constexpr int EMBED_THREADS = 128;

// Four threads take a tile of the token's row: those that would have its fragments.
struct EmbedTask {
    const Part& part;
    int units, columns, row;
    float* out;

    template <class F> __device__ __forceinline__ void run() {
        const uint8_t* tiles = part.tiles + (size_t)(row / TILE_ROWS) * units * F::BYTES;
        // The thread of a tile that has this row and these columns; a row's four are neighbours here as there.
        const int lane = row % 8 * 4 + threadIdx.x % 4, half = row % TILE_ROWS / 8;
        // All threads of a warp stay together: scales are exchanged.
        for (int first = 0; first < units; first += EMBED_THREADS / 4) {
            const int unit = first + threadIdx.x / 4;
            const uint8_t* tile = tiles + (size_t)min(unit, units - 1) * F::BYTES;
            typename F::Prepared scales = F::prepare(F::load_scales(tile, lane), threadIdx.x % 4);
#pragma unroll
            for (int block = 0; block < TILE_BLOCKS; block++) {
                typename F::Quarter quarter = F::load_quarter(tile, block / QUARTER_BLOCKS, lane);
                uint32_t weights[2][4];
                F::weights(quarter, scales, block, threadIdx.x % 32, weights);
                const int column = unit * UNIT_COLUMNS + block * BLOCK_COLUMNS + threadIdx.x % 4 * LANE_COLUMNS;
#pragma unroll
                for (int p = 0; p < 4; p++) {
                    float2 pair = __half22float2(bits_to_half2(half ? weights[1][p] : weights[0][p]));
                    if (column + 2 * p < columns) out[column + 2 * p] = pair.x * part.factor;
                    if (column + 2 * p + 1 < columns) out[column + 2 * p + 1] = pair.y * part.factor;
                }
            }
        }
    }
};

// Marks an id that stands for the last token that was sampled in the slot of its other bits.
constexpr uint32_t PENDING = 1u << 31;

// A block for each token. ids: rows of `table`, of one part, or slots of `last_tokens`. out: f32 (num_tokens, columns).
extern "C" __global__ void __launch_bounds__(EMBED_THREADS)
    embed(const __grid_constant__ Matrix table, const uint32_t* ids, const uint32_t* last_tokens, float* out,
          uint32_t columns) {
    const uint32_t id = ids[blockIdx.x] & PENDING ? last_tokens[ids[blockIdx.x] & ~PENDING] : ids[blockIdx.x];
    float* row = out + (size_t)blockIdx.x * columns;
    EmbedTask task{table.parts[0], (int)table.units, (int)columns, (int)id, row};
    Formats<TileQ4_K, TileQ5_K, TileQ6_K, TileQ2_K, TileQ3_K, TileQ8_0, TileQ4_0, TileQ4_1, TileQ5_0, TileQ5_1,
            TileIQ4_NL, TileIQ4_XS, TileF16>::with(table.parts[0].kind, task);
}
EXPORT_KERNEL(embed)
