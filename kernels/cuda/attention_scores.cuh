// Queries, their products with the keys of a unit, and how the warps of a team exchange them.
#pragma once

#include "attention_task.cuh"

namespace attention {

template <int HD, class E, int TEAM> struct Scores {
    using T = Task<HD, E, TEAM>;
    using M = typename T::M;
    static constexpr int TILES = T::SCORE_TILES;

    const T& task;
    // Queries that stay in registers, for two multiplications each.
    uint32_t held[T::HELD_BLOCKS][2][4];
    // Of the lane's two rows, in TILES columns of 8 positions. Column c of tile (b, i) is position 8 (c / 2) + 2 i + c % 2
    // of page b.
    float values[TILES][4];

    __device__ __forceinline__ explicit Scores(const T& task) : task(task) {}

    // Takes the item's queries into registers or shared memory.
    __device__ __forceinline__ void take_queries() {
        if constexpr (M::QUERIES_HELD) {
#pragma unroll
            for (int block = 0; block < T::DEPTH_BLOCKS; block++) load_query(block, held[block]);
        } else {
            for (int block = task.member; block < T::DEPTH_BLOCKS; block += TEAM) {
                uint32_t a[2][4];
                load_query(block, a);
                uint4* to = task.memory.queries(task.team) + block * 64 + task.lane;
                to[0] = make_uint4(a[0][0], a[0][1], a[0][2], a[0][3]);
                to[32] = make_uint4(a[1][0], a[1][1], a[1][2], a[1][3]);
            }
        }
    }

    // The scores of a unit: scaled, hidden where a row does not see a position, and left for the team.
    __device__ __forceinline__ void compute(int unit) {
        multiply_keys(unit);
        scale(unit);
        // Of the whole item, so that all warps agree.
        if (task.is_partly_seen(unit)) hide_unseen(unit);
        if (TEAM > 1) leave();
    }

    // The lane's two scores of a tile and its lower or upper row; of a team's other members after a barrier.
    __device__ __forceinline__ float2 pair(int tile, int i) const {
        if constexpr (TEAM > 1) {
            return reinterpret_cast<const float2*>(task.memory.scores(task.team))[tile * 64 + i * 32 + task.lane];
        } else {
            return make_float2(values[tile][2 * i], values[tile][2 * i + 1]);
        }
    }
    // The place in the unit of the first of a lane's two positions of a tile.
    __device__ __forceinline__ int place(int tile) const {
        return tile / 4 * PAGE_POSITIONS + task.lane % 4 * 8 + tile % 4 * 2;
    }

private:
    // The lane's part of 32 columns of the fragment of q.
    __device__ __forceinline__ void load_query(int block, uint32_t (&a)[2][4]) const {
        const int column = block * 32 + task.lane % 4 * 8, group = task.args.group, head_dim = task.args.head_dim;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float x[8] = {};
            const int row = task.row(i);
            if (row < task.rows() && column < head_dim) {
                const float* token = task.args.qkv + (size_t)(task.item.first_row + row / group) * task.args.qkv_columns;
                const float* from = token + (task.item.kv_head * group + row % group) * head_dim + column;
                const float4 low = *reinterpret_cast<const float4*>(from);
                const float4 high = *reinterpret_cast<const float4*>(from + 4);
                x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
                x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
            }
#pragma unroll
            for (int p = 0; p < 4; p++) a[p / 2][p % 2 * 2 + i] = pack_halves(limited(x[2 * p]), limited(x[2 * p + 1]));
        }
    }

    __device__ __forceinline__ void query(int block, uint32_t (&a)[2][4]) const {
        if constexpr (M::QUERIES_HELD) {
#pragma unroll
            for (int i = 0; i < 8; i++) a[i / 4][i % 4] = held[block][i / 4][i % 4];
        } else {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint4 q = task.memory.queries(task.team)[block * 64 + i * 32 + task.lane];
                a[i][0] = q.x, a[i][1] = q.y, a[i][2] = q.z, a[i][3] = q.w;
            }
        }
    }

    __device__ __forceinline__ void multiply_keys(int unit) {
        // The row of the lane's column of the warp's first tile.
        const int lane = task.lane, tile = task.member * TILES;
        const int row = tile / 4 * PAGE_POSITIONS + lane / 8 * 8 + tile % 4 * 2 + lane / 4 % 2;
        const unsigned char* keys = task.memory.keys(unit) + row * M::KEY_ROW + lane % 4 * 8 * E::BYTES;
        const int bits = M::key_bits(row);
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) values[n][j] = 0.0f;
        }
#pragma unroll
        for (int block = 0; block < T::DEPTH_BLOCKS; block++) {
            uint32_t a[2][4];
            query(block, a);
            const unsigned char* slot = keys + (block ^ bits) * M::SLOT;
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                const uint4 k = E::load(slot + (n / 4 * PAGE_POSITIONS + n % 4 * 2) * M::KEY_ROW);
                const uint32_t first[2] = {k.x, k.y}, second[2] = {k.z, k.w};
                mma_m16n8k16(values[n], a[0], first);
                mma_m16n8k16(values[n], a[1], second);
            }
        }
    }

    __device__ __forceinline__ void scale(int unit) {
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            float2 scales = make_float2(1.0f, 1.0f);
            if constexpr (E::SCALED) {
                const float* at = task.memory.key_scales(unit) + place(task.member * TILES + n);
                scales = *reinterpret_cast<const float2*>(at);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                values[n][j] = __fmul_rn(values[n][j], task.args.scale);
                if (E::SCALED) values[n][j] = __fmul_rn(values[n][j], j % 2 ? scales.y : scales.x);
            }
        }
    }

    __device__ __forceinline__ void hide_unseen(int unit) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            // Counted from the lane's first position.
            const int position = task.position(i), first = unit * UNIT + place(task.member * TILES);
            const int to = position - first, from = task.seen_from(position) - first;
#pragma unroll
            for (int n = 0; n < TILES; n++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int at = n / 4 * PAGE_POSITIONS + n % 4 * 2 + j;
                    if (at > to || at < from) values[n][2 * i + j] = -INFINITY;
                }
            }
        }
    }

    __device__ __forceinline__ void leave() const {
        float2* to = reinterpret_cast<float2*>(task.memory.scores(task.team)) + task.member * TILES * 64 + task.lane;
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            to[n * 64] = make_float2(values[n][0], values[n][1]);
            to[n * 64 + 32] = make_float2(values[n][2], values[n][3]);
        }
    }
};

} // namespace attention
