// What the kernels of a step read that differs from step to step; `kernels/src/gpu/step.rs` writes it. Everything lies at
// an address that stays, so that a recorded step finds the new values in the old places.
#pragma once

#include "device.cuh"

// Positions in one block of the cache.
constexpr int PAGE_POSITIONS = 32;
// Slot of a row that is padding: it has no token, and nothing is stored for it.
constexpr uint32_t NO_SLOT = 0xffffffffu;

// Counts that lead the tables.
struct StepCounts {
    // Rows that have tokens.
    uint32_t rows;
    // Items of attention that blocks begin with: one for each block, see AttentionItem::next.
    uint32_t few_items, many_items;
    uint32_t unused;
};

// Neighbouring queries of one sequence under one key/value head, and the partitions of the positions they see that one
// block computes.
struct __align__(16) AttentionItem {
    // Row of the batch and position of the first query, and how many there are.
    uint32_t first_row, tokens, first_position;
    // Where the ids of the sequence's blocks begin among those of all sequences.
    uint32_t table;
    uint32_t kv_head;
    // Partitions, as numbers counted from position 0.
    uint32_t begin, end;
    // The item that the block does after this one; 0 if none.
    uint32_t next;
    // Items that share these queries and this head; what one of them leaves behind is merged by the last to end.
    uint32_t items;
    // The counter of those that have ended.
    uint32_t counter;
    // Where their partial results lie, in units of four floats, and how many there are.
    uint32_t partials, num_partials;
    // The partial result that this item writes first. Item 0 writes one, the others one for each partition.
    uint32_t partial;
    uint32_t unused[3];
};

// Where the page of a block and head lies: keys first, then values after `half_page` bytes.
__device__ __forceinline__ size_t page_offset(uint32_t block, uint32_t kv_head, uint32_t kv_heads, uint32_t half_page) {
    return ((size_t)block * kv_heads + kv_head) * 2 * half_page;
}
