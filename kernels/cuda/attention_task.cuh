// What a thread of attention works on: the launch's arguments, the block's item, and the thread's place in it.
#pragma once

#include "attention_memory.cuh"

namespace attention {

constexpr int PARTITION = 128;
constexpr int PARTITION_UNITS = PARTITION / UNIT;
// Columns of 8 positions in a unit and in a page.
constexpr int UNIT_TILES = UNIT / 8;
constexpr int PAGE_TILES = PAGE_POSITIONS / 8;

struct Arguments {
    // f32 (rows, qkv_columns), q first.
    const float* qkv;
    const uint8_t* pages;
    // Blocks begin with items[first_item + block], of which there are `*num_items`.
    const AttentionItem* items;
    const uint32_t* num_items;
    // Ids of the sequences' blocks.
    const uint32_t* tables;
    // Operand of `out_columns`, padded.
    __half* out;
    // Partial results, and counters that are 0 between launches.
    float4* partials;
    uint32_t* counters;
    uint32_t first_item, qkv_columns, out_columns, kv_heads, group, head_dim;
    // Positions a query sees, its own included.
    uint32_t window;
    // What products of q and k are multiplied by before 2 is raised to them.
    float scale;
};

template <int HD, class E, int TEAM> struct Task {
    using M = Memory<HD, E, TEAM>;
    static constexpr int DEPTH_BLOCKS = HD / 32;
    static constexpr int SCORE_TILES = UNIT_TILES / TEAM;
    static constexpr int VALUE_TILES = HD / 8 / TEAM;
    static constexpr int HELD_BLOCKS = M::QUERIES_HELD ? DEPTH_BLOCKS : 1;

    const Arguments& args;
    const AttentionItem& item;
    M memory;
    // Of the warp.
    int lane, team, member;
    // Of the item.
    int rows, half_page;
    // Positions of the first and the last query, and the first position that the first one sees.
    int first_position, last_position, first_seen;
    // Units that are seen.
    int begin, end;
    // Of the lane's two rows: positions seen.
    int seen_from[2], seen_to[2];
    // Whether the team has rows, and whether in the upper half.
    bool active, upper;

    __device__ __forceinline__ Task(const Arguments& args, const AttentionItem& item, unsigned char* shared)
        : args(args), item(item), memory{shared} {
        lane = threadIdx.x % 32;
        team = threadIdx.x / 32 / TEAM;
        member = threadIdx.x / 32 % TEAM;
        rows = item.tokens * args.group;
        half_page = PAGE_POSITIONS * (args.head_dim * E::BYTES + (E::SCALED ? 4 : 0));
        first_position = item.first_position;
        last_position = first_position + item.tokens - 1;
        first_seen = from(first_position);
        begin = max((int)item.begin * PARTITION_UNITS, first_seen / UNIT);
        end = min((int)item.end * PARTITION_UNITS, last_position / UNIT + 1);
        active = team * FRAGMENT_ROWS < rows;
        upper = team * FRAGMENT_ROWS + 8 < rows;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            // Rows that are not there see what the last one does; nobody asks for them.
            seen_to[i] = first_position + min(row(i), rows - 1) / (int)args.group;
            seen_from[i] = from(seen_to[i]);
        }
    }

    // The first position that a query at `position` sees.
    __device__ __forceinline__ int from(int position) const {
        return position < (int)args.window ? 0 : position + 1 - (int)args.window;
    }
    // The lane's row of its lower or upper half.
    __device__ __forceinline__ int row(int i) const { return team * FRAGMENT_ROWS + lane / 4 + 8 * i; }
    // Whether a page of the sequence has a position that some query sees.
    __device__ __forceinline__ bool is_seen(int page) const {
        const bool in_range = page * PAGE_POSITIONS <= last_position && (page + 1) * PAGE_POSITIONS > first_seen;
        return in_range && page < end * UNIT_PAGES;
    }
    // Whether a unit has positions that no query sees, or that some do not.
    __device__ __forceinline__ bool has_unseen(int unit) const {
        return (unit + 1) * UNIT > last_position + 1 || unit * UNIT < first_seen;
    }
    __device__ __forceinline__ bool is_partly_seen(int unit) const {
        return unit * UNIT + UNIT - 1 > first_position || unit * UNIT < from(last_position);
    }
};

} // namespace attention
