// The step's own rows, where attention itself rotates them and stores their keys and values: in steps in which no item
// reads what another stores, because all queries of a sequence under a head are one item's, or its parts'.
#pragma once

#include "attention_task.cuh"

namespace attention {

template <int HD, class E, int TEAM> struct NewRows {
    using T = Task<HD, E, TEAM>;
    using Stored = typename E::Stored;

    const T& task;

    // Keys and values of the positions that this item reads of the new ones.
    __device__ __forceinline__ void store() const {
        const AttentionItem& item = task.item;
        const Arguments& args = task.args;
        const int first = max((int)item.begin * PARTITION - task.first_position(), 0);
        const int end = min((int)item.end * PARTITION - task.first_position(), (int)item.tokens);
        if (first >= end) return;
        const int query_heads = args.kv_heads * args.group, head_dim = args.head_dim;
        for (int i = 2 * first + threadIdx.x / 32; i < 2 * end; i += WARPS) {
            const int token = i / 2, position = task.first_position() + token, row = item.first_row + token;
            uint8_t* keys = task.keys(args.tables[item.table + position / PAGE_POSITIONS]);
            const float* heads = args.qkv + (size_t)row * args.qkv_columns + (query_heads + item.kv_head) * head_dim;
            float x[MAX_LANE_ELEMENTS];
            if (i % 2 == 0) {
                load_key<Stored>(args.rope, heads, row, x);
                store_key<Stored>(keys, position % PAGE_POSITIONS, head_dim, x);
            } else {
                load_head(args.rope, heads + args.kv_heads * head_dim, row, false, x);
                store_value<Stored>(keys + task.half_page(), position % PAGE_POSITIONS, head_dim, x);
            }
        }
        // Copies to shared memory see what other threads of the block have stored.
        __threadfence_block();
        __syncthreads();
    }

    // Queries go to shared memory as fragments; those of rows that are not there are zeros.
    __device__ __forceinline__ void take_queries() const {
        const AttentionItem& item = task.item;
        const Arguments& args = task.args;
        const int group = args.group;
        for (int row = threadIdx.x / 32; row < FRAGMENT_ROWS; row += WARPS) {
            float x[MAX_LANE_ELEMENTS] = {};
            if (row < task.rows()) {
                const int token = item.first_row + row / group;
                const float* heads = args.qkv + (size_t)token * args.qkv_columns;
                load_query<Stored>(args.rope, heads + (item.kv_head * group + row % group) * args.head_dim, token, x);
            }
#pragma unroll
            for (int j = 0; j < HD / 32; j++) {
                // Column `lane` of the 32 of block j: number of its eight, its pair among them.
                const int lane = row % 8 * 4 + task.lane / 8, pair = task.lane % 8 / 2;
                __half* to = reinterpret_cast<__half*>(task.memory.queries(0) + j * 64 + pair / 2 * 32 + lane);
                to[(pair % 2 * 2 + row / 8) * 2 + task.lane % 2] = __float2half_rn(limited(x[j]));
            }
        }
    }
};

} // namespace attention
