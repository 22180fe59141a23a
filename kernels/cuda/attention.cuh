// Causal attention over the paged cache by online softmax (FlashAttention-2, Dao, 2023), its long contexts spread over
// blocks (FlashDecoding, Dao et al., 2023).
//
// Rows are tokens times heads of a group, a token's heads together; a fragment is 16 of them. Positions are cut at
// absolute multiples of PARTITION. In a partition a row goes through units of 64 positions in order: scores by
// multiplications of depth 16, the running maximum, weights rounded to f16, sums rescaled and added to. Partitions are
// merged in order. None of it depends on the rows beside it, on the step's chunking, or on who computes a partition, and
// a unit of which a row sees nothing leaves its sums as they are to the bit: an output has the same bits however the work
// is cut.
//
// The order of the 16 numbers within a multiplication is free as long as both factors keep to it. It is chosen so that a
// thread takes eight neighbours of a row of K, and of a transposed row of V, for two multiplications, and so that its
// scores are those of eight neighbouring positions, which is how it takes the weights into the product with V.
//
// A block has four warps. In a team of TEAM warps each computes a share of the scores of the same fragment, exchanges
// them through shared memory, and takes a share of the columns of V; teams take different fragments.
//   few (TEAM 4): one fragment. For f16 and heads of 128 a unit is 32 KB; with 40 KB of shared memory and at most 128
//     registers four blocks fit on a multiprocessor of an A100 or H200, 64 KB always under way: 20 bytes a cycle and 800
//     cycles of latency need 16 KB. A unit takes a block some 700 cycles of work and 6,300 of its share of the
//     bandwidth.
//   many (TEAM 1): four fragments, two blocks on a multiprocessor for want of registers (64 of sums of the partition, 64
//     of those before, 32 of scores, 32 of queries). K and V are read from shared memory once for 16 rows: 4 warps read
//     128 KB a unit in 1,024 cycles, and their 512 multiplications take the tensor cores of an H200 some 830.
#pragma once

#include "attention_new_rows.cuh"
#include "attention_pages.cuh"
#include "attention_results.cuh"

namespace attention {

// SPLIT: whether items may share their queries.
template <int HD, class E, int TEAM, bool SPLIT>
__device__ __forceinline__ void run(const Arguments& args, const AttentionItem& item, unsigned char* shared) {
    using T = Task<HD, E, TEAM>;
    constexpr int DEPTH = T::M::DEPTH;
    const T task(args, item, shared);
    const Pages<HD, E, TEAM> pages{task};
    const Results<HD, E, TEAM> results{task};
    const NewRows<HD, E, TEAM> new_rows{task};
    const bool folds = !SPLIT || item.partial == 0, has_new_rows = SPLIT && args.rope.angles;
    if (has_new_rows) new_rows.store();
    uint32_t ids[UNIT_PAGES];
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
        pages.load_ids(task.begin + i, ids);
        pages.copy_keys(task.begin + i, ids);
        cp_async_commit();
        if (i + 1 < DEPTH) pages.copy_values(task.begin + i, ids);
        if (i + 1 < DEPTH) cp_async_commit();
    }
    Scores<HD, E, TEAM> scores(task);
    if (has_new_rows) {
        new_rows.take_queries();
    } else {
        scores.take_queries();
    }
    if (SPLIT && !folds) results.write_empty_partials();
    Sums<HD, E, TEAM> total, sums;
    total.clear();
    sums.clear();
    for (int unit = task.begin; unit < task.end; unit++) {
        // The unit's keys are there, and the values of the one before are free. `ids` are those of the last keys.
        cp_async_wait<2 * DEPTH - 2>();
        __syncthreads();
        pages.copy_values(unit + DEPTH - 1, ids);
        cp_async_commit();
        pages.load_ids(unit + DEPTH, ids);
        if (task.active) scores.compute(unit);
        // The unit's values are there, its keys are free, and scores are exchanged.
        cp_async_wait<2 * DEPTH - 2>();
        if (!E::SCALED && task.has_unseen(unit)) pages.clear_unseen_values(unit);
        __syncthreads();
        pages.copy_keys(unit + DEPTH, ids);
        cp_async_commit();
        if (!task.active) continue;
        sums.add(task, unit, scores);
        if ((unit + 1) % PARTITION_UNITS == 0 || unit + 1 == task.end) {
            if (folds) {
                total.merge(sums);
            } else {
                results.write_partial(item.partial + unit / PARTITION_UNITS - item.begin, sums);
            }
            sums.clear();
        }
    }
    cp_async_wait_all();
    if (SPLIT && item.items > 1) {
        if (folds) results.write_partial(0, total);
        results.end_split();
    } else if (task.active) {
        results.write(total);
    }
}

template <int HD, class E, int TEAM, bool SPLIT> __device__ __forceinline__ void attend(const Arguments& args) {
    DYNAMIC_SHARED(shared);
    grid_dependency_launch();
    grid_dependency_wait();
    if (blockIdx.x >= *args.num_items) return;
    uint32_t at = blockIdx.x;
    __shared__ AttentionItem item;
    do {
        // Others may still read the item before this one, and what it left in shared memory.
        __syncthreads();
        const uint4* from = reinterpret_cast<const uint4*>(args.items + args.first_item + at);
        if (threadIdx.x < sizeof item / 16) reinterpret_cast<uint4*>(&item)[threadIdx.x] = from[threadIdx.x];
        __syncthreads();
        run<HD, E, TEAM, SPLIT>(args, item, shared);
        at = SPLIT ? item.next : 0;
    } while (at != 0);
}

} // namespace attention
