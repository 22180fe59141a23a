// The choice from one row, and what is reported beside it, by one block.
#pragma once

#include "sample_select.cuh"

namespace sampling {

__device__ __forceinline__ float mean_exponent(const Totals& totals) {
    return static_cast<float>(-(static_cast<double>(totals.surprise) / static_cast<double>(totals.weight)));
}

// Whether the candidates hold all that typical_p may keep where it stands alone. A token lighter than `least_weight`
// was not listed. If it is also further from the mean than the likeliest is, then all that is further still is lighter,
// and together less than what may be left out. See SlotRecord::new.
__device__ __forceinline__ bool choice_is_listed(const Slot& slot, float mean) {
    return (slot.flags & (TOP_K | TOP_P | MIN_P)) != 0 || weight_of(2.0f * mean - 0.01f) > 1.02f * slot.least_weight;
}

// What a token is chosen from.
struct Choice {
    Items items;    // at least what can be chosen and, if top_k is asked for, all that this one keeps
    Totals totals;  // of the row
    Wide target;    // of the draw where nothing is truncated: a place in the weights of `items`
};

// `logits`: the row to choose from.
__device__ __forceinline__ Choice prepare_choice(Bench& bench, const Workspace& space, uint32_t at, const float* logits,
                                                 const Slot& slot, Wide bits) {
    Sums own{0, 0, 0};
    if (threadIdx.x < space.chunks) own = space.sums[static_cast<size_t>(at) * space.chunks + threadIdx.x];
    Choice choice{Items::row(logits, 0, space.vocab), {0, 0}, 0};
    if ((slot.flags & TRUNCATES) == 0) {
        // The chunk first, then the token.
        Wide total;
        const Wide before = block_scan(own.weight, bench.partial, total);
        const Wide target = __umul64hi(total, bits) + 1;
        if (before < target && target <= before + own.weight) bench.found = {threadIdx.x, 0, target - before};
        __syncthreads();
        if (target <= total) {
            const uint32_t begin = bench.found.bin * CHUNK;
            choice.items = Items::row(logits, begin, min(begin + CHUNK, space.vocab));
            choice.target = bench.found.rest;
        }
    } else {
        choice.totals.weight = block_sum(own.weight, bench.partial);
        choice.totals.surprise = block_sum(own.surprise, bench.partial);
        const uint32_t count = space.listed[2 * at];
        if (count <= MAX_CANDIDATES && choice_is_listed(slot, mean_exponent(choice.totals))) {
            choice.items = Items::listed(space.candidates + static_cast<size_t>(at) * MAX_CANDIDATES, count);
        }
    }
    return choice;
}

struct Decision {
    uint32_t token;  // NONE if `items` has no such weight
    Cut likely;
};

// The truncations of src/engine/sampler/mod.rs in its order and the draw in the order of ids, unless the slot is greedy;
// then the `num_likely` best of `likely`. One loop, so that the code of selection is there once.
__device__ __forceinline__ Decision decide(Bench& bench, Choice choice, Kept kept, const Slot& slot, uint32_t flags,
                                           Wide bits, const Items& likely, uint32_t num_likely) {
    Decision decision{NONE, {ALL, ALL}};
#pragma unroll 1
    for (int stage = flags & GREEDY ? BY_LIKELIHOOD : BY_LOGIT; stage <= BY_LIKELIHOOD; stage++) {
        const By by = static_cast<By>(stage);
        if (by < BY_ID && (flags & TOP_K << by) == 0) continue;
        if (by == BY_LIKELIHOOD && num_likely == 0) continue;
        if (by == BY_WEIGHT) {
            kept.min_weight = slot.min_p;
        } else {
            Wide target = choice.target;
            if (by == BY_LOGIT) target = slot.top_k;
            if (by == BY_EXPONENT) target = share_of(choice.totals.weight, slot.top_p);
            if (by == BY_DISTANCE) {
                // Surprise is the logarithm of the total less the exponent, and entropy its mean: the logarithm
                // cancels out.
                kept.mean = mean_exponent(choice.totals);
                target = share_of(choice.totals.weight, slot.typical_p);
            }
            if (by == BY_ID && (flags & TRUNCATES) != 0) target = __umul64hi(choice.totals.weight, bits) + 1;
            if (by == BY_LIKELIHOOD) {
                choice.items = likely;
                target = num_likely;
            }
            const Cut cut = find_cut(bench, choice.items, kept, by, target);
            if (by == BY_LOGIT) kept.by_logit = cut;
            if (by == BY_EXPONENT) kept.by_exponent = cut;
            if (by == BY_DISTANCE) kept.by_distance = cut;
            if (by == BY_ID) decision.token = cut.id;
            if (by == BY_LIKELIHOOD) decision.likely = cut;
        }
        if (by < BY_ID) choice.totals = kept_totals(bench, choice.items, kept);
    }
    return decision;
}

// Writes the likeliest tokens with their log-probabilities, best first. `total`: the logarithm of the sum of all
// exponentials.
__device__ __forceinline__ void report_likely(Bench& bench, const Items& likely, Cut cut, uint32_t count, float total,
                                              Alternative* out) {
    if (threadIdx.x == 0) bench.num_likely = 0;
    __syncthreads();
    likely.each([&](uint32_t id, float logit) {
        if (cut.keeps(Kept::logit_key(logit), id)) bench.likely[atomicAdd(&bench.num_likely, 1u)] = {id, logit};
    });
    __syncthreads();
    if (threadIdx.x >= count) return;
    const Item own = bench.likely[threadIdx.x];
    const Cut better{Kept::logit_key(own.logit), own.id};
    uint32_t rank = 0;
    for (uint32_t i = 0; i < count; i++) {
        const Item other = bench.likely[i];
        rank += better.keeps(Kept::logit_key(other.logit), other.id);
    }
    out[rank - 1] = {own.id, __fsub_rn(own.logit, total)};
}

} // namespace sampling
