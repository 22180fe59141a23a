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
    // f32 (rows, qkv_columns): q, k, v.
    const float* qkv;
    uint8_t* pages;
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
    // Where the step's rows are neither rotated nor stored yet: items do it with their own. Without angles otherwise.
    Rope rope;
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
    // Units and pages with positions that some query sees.
    int begin, end, first_page, end_page;
    // Whether the team has rows.
    bool active;

    __device__ __forceinline__ Task(const Arguments& args, const AttentionItem& item, unsigned char* shared)
        : args(args), item(item), memory{shared} {
        lane = threadIdx.x % 32;
        team = threadIdx.x / 32 / TEAM;
        member = threadIdx.x / 32 % TEAM;
        begin = max((int)item.begin * PARTITION_UNITS, first_seen() / UNIT);
        end = min((int)item.end * PARTITION_UNITS, last_position() / UNIT + 1);
        first_page = first_seen() / PAGE_POSITIONS;
        end_page = min(end * UNIT_PAGES, last_position() / PAGE_POSITIONS + 1);
        active = team * FRAGMENT_ROWS < rows();
    }

    // Rows of the item, and where its first and its last query stand.
    __device__ __forceinline__ int rows() const { return item.tokens * args.group; }
    __device__ __forceinline__ int first_position() const { return item.first_position; }
    __device__ __forceinline__ int last_position() const { return item.first_position + item.tokens - 1; }
    // The first position that a query at `position` sees, and that any of the item does.
    __device__ __forceinline__ int seen_from(int position) const {
        return position < (int)args.window ? 0 : position + 1 - (int)args.window;
    }
    __device__ __forceinline__ int first_seen() const { return seen_from(first_position()); }
    // The lane's row of its lower or upper half.
    __device__ __forceinline__ int row(int i) const { return team * FRAGMENT_ROWS + lane / 4 + 8 * i; }
    // Its position. Rows that are not there see what the last one does; nobody asks for them.
    __device__ __forceinline__ int position(int i) const {
        return first_position() + min(row(i), rows() - 1) / (int)args.group;
    }

    // Whether the team has rows in its upper half.
    __device__ __forceinline__ bool upper() const { return team * FRAGMENT_ROWS + 8 < rows(); }
    __device__ __forceinline__ bool is_seen(int page) const { return page >= first_page && page < end_page; }
    // Whether a unit has positions that no query sees, and whether it has some that not all of them see.
    __device__ __forceinline__ bool has_unseen(int unit) const {
        return (unit + 1) * UNIT > last_position() + 1 || unit * UNIT < first_seen();
    }
    __device__ __forceinline__ bool is_partly_seen(int unit) const {
        return (unit + 1) * UNIT > first_position() + 1 || unit * UNIT < seen_from(last_position());
    }

    // Bytes of the keys, or the values, of one head of a block, and where the keys begin.
    __device__ __forceinline__ int half_page() const {
        return PAGE_POSITIONS * (args.head_dim * E::BYTES + (E::SCALED ? 4 : 0));
    }
    __device__ __forceinline__ uint8_t* keys(uint32_t block) const {
        return args.pages + page_offset(block, item.kv_head, args.kv_heads, half_page());
    }
};

} // namespace attention
