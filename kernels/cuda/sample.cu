// The sampler for all rows of a step. sample_scan changes logits (penalties, biases, bans, masks) and finds the largest;
// sample_weigh sums weights and lists the tokens that truncations may keep; sample_finish chooses, reports and moves the
// sequences on. sample_count starts a sequence's table of counts.
//
// What a row costs, V = 128,256 logits, 513 KB (estimates for an H200 at 1.7 GHz, to be measured):
//   one row:  scan and weigh have 32 blocks each, 16 KB a block, some 1 us + 1.5 us (20 operations of an exponential for
//     each of 8 logits a thread); finish is one block and bound by barriers: 4 a digit, 0.25 us, 2 to 3 digits for a cut
//     and 2 for the draw. Greedy 0.5 us, temperature alone 1.5 us, top_p 2.5 us, top_k + top_p 4 us, alternatives 1.5 us
//     more. With three launches of a graph at 1.5 us: 7 to 11 us.
//   64 rows:  33 MB twice, from L2 (written by the product just before) or at 4.8 TB/s: 7 us each; weigh adds the
//     exponentials, 8.2 M * 25 operations on 132 * 128 lanes = 7 us, under the loads in part; finish as for one row,
//     since every row has its own multiprocessor. 20 to 27 us.
//   Where more than MAX_CANDIDATES tokens may be kept (a flat distribution with top_p near 1; top_k above V / 256),
//     finish goes through the row itself, 5 us to 12 us a digit at 100 GB/s: some 60 us.
#include "sample_change.cuh"
#include "sample_choose.cuh"
#include "sample_chunk.cuh"

namespace sampling {

// The row of the task's number `at`, and whether there is one.
__device__ __forceinline__ bool read_row(const Workspace& space, uint32_t at, Row& row) {
    if (at >= space.step->num_rows) return false;
    row = space.step->rows[at];
    return true;
}

// Counts the tokens that a run brought: each is the one that the next row was computed from, but the last.
__device__ __forceinline__ void accept_run(const Workspace& space, const Row& row, Head* heads) {
    Slot& slot = space.slots[row.slot];
    const Row* rows = space.step->rows + row.first;
    // Other blocks of this launch have written them: not to be read from a cache of this multiprocessor.
    const volatile Head* done = heads + row.first;
    uint32_t accepted = 0, token = 0;
    while (accepted < row.length) {
        if (done[accepted].flags != 0) break;
        token = done[accepted].token;
        if (slot.counts != nullptr) slot.counts[token]++;
        accepted++;
        if (accepted < row.length && rows[accepted].token != token) break;
    }
    slot.num_generated += accepted;
    if (accepted > 0) space.last_tokens[row.slot] = token;
    heads[row.first].accepted = accepted;
}

} // namespace sampling

// A block for each chunk (x) of each row (y), THREADS threads. logits: f32 (logit rows, vocab).
extern "C" __global__ void __launch_bounds__(sampling::THREADS)
    sample_scan(sampling::Workspace space, const float* logits) {
    using namespace sampling;
    __shared__ Wide partial[WARPS];
    grid_dependency_wait();
    grid_dependency_launch();
    const uint32_t at = blockIdx.y, chunk = blockIdx.x;
    Row row;
    if (!read_row(space, at, row)) return;
    const float* raw = logits + static_cast<size_t>(row.logits) * space.vocab;
    const uint32_t begin = chunk * CHUNK, end = min(begin + CHUNK, space.vocab);
    uint32_t* peaks = space.peaks + (2 * static_cast<size_t>(at) * space.chunks + chunk) * WARPS;
    Scan scan;
    scan.raw = scan_chunk(raw, begin, end, peaks + space.chunks * WARPS, partial);
    if (row.prompt == NONE && changes_logits(space.slots[row.slot], row)) {
        const Slot& slot = space.slots[row.slot];
        float* changed = space.changed + static_cast<size_t>(at) * space.vocab;
        change_chunk(space, row, slot, raw, changed, begin, end);
        scan.best = scan_chunk(changed, begin, end, peaks, partial);
    } else {
        scan.best = scan.raw;
        if (threadIdx.x < WARPS) peaks[threadIdx.x] = peaks[space.chunks * WARPS + threadIdx.x];
    }
    if (threadIdx.x == 0) space.scans[static_cast<size_t>(at) * space.chunks + chunk] = scan;
    if (chunk == 0 && threadIdx.x < 2) space.listed[2 * at + threadIdx.x] = 0;
}
EXPORT_KERNEL(sample_scan)

// The same blocks.
extern "C" __global__ void __launch_bounds__(sampling::THREADS)
    sample_weigh(sampling::Workspace space, const float* logits) {
    using namespace sampling;
    __shared__ Wide partial[WARPS];
    __shared__ uint32_t place;
    grid_dependency_wait();
    grid_dependency_launch();
    const uint32_t at = blockIdx.y, chunk = blockIdx.x;
    Row row;
    if (!read_row(space, at, row)) return;
    const bool samples = row.prompt == NONE;
    const Slot* slot = space.slots + row.slot;
    const uint32_t flags = samples ? slot->flags : GREEDY;
    const uint32_t alternatives = samples ? slot->logprobs : row.prompt;
    if ((flags & GREEDY) != 0 && alternatives == NONE) return;

    const Scan* scans = space.scans + static_cast<size_t>(at) * space.chunks;
    const uint32_t num_peaks = space.chunks * WARPS;
    const uint32_t begin = chunk * CHUNK, end = min(begin + CHUNK, space.vocab);
    const float* raw = logits + static_cast<size_t>(row.logits) * space.vocab;
    const float* changed = space.changed + static_cast<size_t>(at) * space.vocab;
    Sums sums{0, 0, 0};
    // First what the choice needs, then the report. Neither is made of logits that are not finite.
#pragma unroll 1
    for (int part = 0; part < 2; part++) {
        if (part == 0 ? (flags & GREEDY) != 0 : alternatives == NONE) continue;
        const Wide best = part == 0 ? row_best<&Scan::best>(scans, space.chunks, partial)
                                    : row_best<&Scan::raw>(scans, space.chunks, partial);
        if (best == BAD) return;
        Wanted wanted{place_logit(best), 1.0f};
        uint32_t count = alternatives;
        if (part == 0) {
            wanted.scale = slot->scale;
            wanted.surprise = (flags & TYPICAL) != 0;
            wanted.lists = (flags & TRUNCATES) != 0;
            wanted.weightless = (flags & TOP_K) != 0;
            wanted.least_weight = slot->least_weight;
            wanted.list = space.candidates + static_cast<size_t>(at) * MAX_CANDIDATES;
            wanted.capacity = MAX_CANDIDATES;
            count = slot->top_k;
        } else {
            wanted.lists = wanted.weightless = alternatives > 0;
            wanted.list = space.likely + static_cast<size_t>(at) * MAX_LIKELY;
            wanted.capacity = MAX_LIKELY;
        }
        wanted.length = space.listed + 2 * at + part;
        if (wanted.weightless) {
            const uint32_t* peaks = space.peaks + (2 * static_cast<size_t>(at) + part) * num_peaks;
            wanted.least_key = key_below_top(peaks, num_peaks, count);
        }
        const bool is_changed = part == 0 && changes_logits(*slot, row);
        const Totals totals = weigh_chunk(is_changed ? changed : raw, begin, end, wanted, partial, &place);
        if (part == 0) {
            sums.weight = totals.weight;
            sums.surprise = totals.surprise;
        } else {
            sums.raw = totals.weight;
        }
    }
    if (threadIdx.x == 0) space.sums[static_cast<size_t>(at) * space.chunks + chunk] = sums;
}
EXPORT_KERNEL(sample_weigh)

// A block for each row, THREADS threads.
extern "C" __global__ void __launch_bounds__(sampling::THREADS, 1)
    sample_finish(sampling::Workspace space, const float* logits) {
    using namespace sampling;
    __shared__ Bench bench;
    grid_dependency_wait();
    grid_dependency_launch();
    const uint32_t at = blockIdx.x;
    Row row;
    if (!read_row(space, at, row)) return;
    const bool samples = row.prompt == NONE;
    const float* raw = logits + static_cast<size_t>(row.logits) * space.vocab;
    Head* heads = output_heads(space);
    const Scan* scans = space.scans + static_cast<size_t>(at) * space.chunks;
    // BAD in `raw` need not be so in `best`: a banned token's logit is not looked at.
    const Wide raw_best = row_best<&Scan::raw>(scans, space.chunks, bench.partial);
    const Wide best = row_best<&Scan::best>(scans, space.chunks, bench.partial);

    Head head{row.token, raw_best == BAD || best == BAD ? NOT_FINITE : 0, 0, 0.0f};
    if (samples && row.mask != NONE && place_logit(best) == -FLT_MAX) head.flags |= NOTHING_ALLOWED;
    if (head.flags == 0) {
        const Slot& slot = space.slots[row.slot];
        const uint32_t flags = samples ? slot.flags : GREEDY;
        const uint32_t alternatives = samples ? slot.logprobs : row.prompt;
        const uint32_t num_likely = alternatives == NONE ? 0 : min(alternatives, min(space.vocab, MAX_ALTERNATIVES));
        Items likely = Items::row(raw, 0, space.vocab);
        const uint32_t listed = space.listed[2 * at + 1];
        if (listed <= MAX_LIKELY) likely = Items::listed(space.likely + static_cast<size_t>(at) * MAX_LIKELY, listed);
        Choice choice{};
        Wide bits = 0;
        if ((flags & GREEDY) == 0) {
            const float* changed = space.changed + static_cast<size_t>(at) * space.vocab;
            bits = draw_bits(slot.seed, static_cast<Wide>(slot.num_generated) + row.index);
            choice = prepare_choice(bench, space, at, changes_logits(slot, row) ? changed : raw, slot, bits);
        }
        const Kept kept{place_logit(best), slot.scale};
        const Decision decision = decide(bench, choice, kept, slot, flags, bits, likely, num_likely);
        // Not greedy, and nothing chosen: only where a parameter is not a number.
        if (samples) head.token = decision.token < space.vocab ? decision.token : place_id(best);
        if (alternatives != NONE) {
            const Sums* sums = space.sums + static_cast<size_t>(at) * space.chunks;
            const Wide sum = block_sum(threadIdx.x < space.chunks ? sums[threadIdx.x].raw : 0, bench.partial);
            const float total =
                __fadd_rn(place_logit(raw_best), logf(__fmul_rn(__ull2float_rn(sum), 1.0f / FIXED_ONE)));
            Alternative* out = output_alternatives(space, at);
            if (num_likely > 0) report_likely(bench, likely, decision.likely, num_likely, total, out);
            head.logprob = head.token < space.vocab ? __fsub_rn(raw[head.token], total) : -INFINITY;
        }
    }
    if (threadIdx.x != 0) return;
    heads[at] = head;
    if (!samples) return;
    if (row.length > 1) {
        // The run goes on with its last block to come.
        __threadfence();
        if (atomicAdd(&space.arrived[row.first], 1u) + 1 < row.length) return;
        space.arrived[row.first] = 0;
        __threadfence();
    }
    accept_run(space, row, heads);
}
EXPORT_KERNEL(sample_finish)

// Adds tokens to a table of counts: first those of the prompt, then generated ones. `reset` empties it before.
// One block, THREADS threads.
extern "C" __global__ void __launch_bounds__(sampling::THREADS)
    sample_count(uint32_t* counts, uint32_t vocab, const uint32_t* tokens, uint32_t num_prompt, uint32_t num_tokens,
                 uint32_t reset) {
    using namespace sampling;
    if (reset) {
        for (uint32_t id = threadIdx.x; id < vocab; id += THREADS) counts[id] = 0;
        __syncthreads();
    }
    for (uint32_t i = threadIdx.x; i < num_tokens; i += THREADS) {
        const uint32_t id = tokens[i];
        if (id >= vocab) continue;
        if (i < num_prompt) atomicOr(&counts[id], IN_PROMPT);
        else atomicAdd(&counts[id], 1u);
    }
}
EXPORT_KERNEL(sample_count)
