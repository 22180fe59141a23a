// Sums and selection by the threads of one block. Every result is a function of the set of tokens alone: neither their
// order nor that of the threads changes a bit of it.
#pragma once

#include "sample.cuh"

namespace sampling {

constexpr int BIN_BITS = 11;
constexpr int BINS = 1 << BIN_BITS;
constexpr int BINS_PER_THREAD = BINS / THREADS;
// Tokens have ids below 2^18.
constexpr int ID_BITS = 18;
// Tokens that a thread reads at once.
constexpr int BATCH = 8;

// Shared memory of a block that selects.
struct Bench {
    uint32_t low[BINS], high[BINS], count[BINS];  // weights of 64 bits as two words: cards add words natively
    Wide partial[WARPS];
    struct {
        uint32_t bin, count;
        Wide rest;
    } found;
    uint32_t num_likely;
    Item likely[MAX_ALTERNATIVES];
};

__device__ __forceinline__ int lane_id() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp_id() { return threadIdx.x / 32; }

__device__ __forceinline__ Wide block_sum(Wide value, Wide* partial) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
    if (lane_id() == 0) partial[warp_id()] = value;
    __syncthreads();
    Wide sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += partial[i];
    __syncthreads();
    return sum;
}

__device__ __forceinline__ Wide warp_max(Wide value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const Wide other = __shfl_xor_sync(0xffffffff, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

__device__ __forceinline__ Wide block_max(Wide value, Wide* partial) {
    value = warp_max(value);
    if (lane_id() == 0) partial[warp_id()] = value;
    __syncthreads();
    Wide max = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) max = partial[i] > max ? partial[i] : max;
    __syncthreads();
    return max;
}

// The sum over the threads before this one; all threads' in `total`. The caller has a barrier before `partial` is
// written again.
__device__ __forceinline__ Wide block_scan(Wide value, Wide* partial, Wide& total) {
    Wide sum = value;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const Wide other = __shfl_up_sync(0xffffffff, sum, distance);
        if (lane_id() >= distance) sum += other;
    }
    if (lane_id() == 31) partial[warp_id()] = sum;
    __syncthreads();
    sum -= value;
    total = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) {
        if (i == warp_id()) sum += total;
        total += partial[i];
    }
    return sum;
}

// The largest of what a row's chunks say.
template <Wide Scan::*FIELD>
__device__ __forceinline__ Wide row_best(const Scan* scans, uint32_t chunks, Wide* partial) {
    return block_max(threadIdx.x < chunks ? scans[threadIdx.x].*FIELD : 0, partial);
}

// A key that at least `k` logits of a row reach, found from the largest of 256 logits each; 0 if there are fewer of
// these than k. All keys below it lie behind the k largest.
__device__ __forceinline__ uint32_t key_below_top(const uint32_t* peaks, uint32_t count, uint32_t k) {
    uint32_t key = 0, floor = 0;
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) key = max(key, peaks[i]);
    // 11 bits of the mantissa are near enough.
    for (uint32_t bit = 1u << 31; bit >= 1u << 12; bit /= 2) {
        if (static_cast<uint32_t>(__syncthreads_count(key >= (floor | bit))) >= k) floor |= bit;
    }
    return floor;
}

// Tokens to look at: a list, or a part of a row.
struct Items {
    const float* logits;
    const uint32_t* ids;  // or null: they count from `begin`
    uint32_t stride;      // of both
    uint32_t begin, end;

    __device__ __forceinline__ static Items listed(const Item* items, uint32_t count) {
        return {&items->logit, &items->id, sizeof(Item) / sizeof(float), 0, count};
    }
    __device__ __forceinline__ static Items row(const float* logits, uint32_t begin, uint32_t end) {
        return {logits, nullptr, 1, begin, end};
    }

    // Several loads are under way together, but the code of a visit is there once: a block runs through most of its
    // code only once or twice, and fetching that costs more than it does.
    template <class Visit> __device__ __forceinline__ void each(Visit visit) const {
        for (uint32_t first = begin + threadIdx.x; first < end; first += THREADS * BATCH) {
            Item batch[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                const uint32_t at = first + i * THREADS;
                if (at >= end) break;
                batch[i] = {at, logits[at * stride]};
                if (ids != nullptr) batch[i].id = ids[at * stride];
            }
#pragma unroll 1
            for (uint32_t at = first; at < end && at < first + THREADS * BATCH; at += THREADS) {
                visit(batch[0].id, batch[0].logit);
#pragma unroll
                for (int i = 1; i < BATCH; i++) batch[i - 1] = batch[i];
            }
        }
    }
};

// What tokens are compared by: the least key is the best. The first four are the truncations in their order, each with
// the flag TOP_K << by. BY_ID is the draw, BY_LIKELIHOOD finds alternatives to report, by the model's own logits.
enum By { BY_LOGIT, BY_EXPONENT, BY_WEIGHT, BY_DISTANCE, BY_ID, BY_LIKELIHOOD };

// The last of the tokens that are kept, in the order of key and then id.
struct Cut {
    uint32_t key, id;
    __device__ __forceinline__ bool keeps(uint32_t other_key, uint32_t other_id) const {
        return other_key < key || (other_key == key && other_id <= id);
    }
};
constexpr uint32_t ALL = 0xffffffff;

// What the truncations so far have left of a row.
struct Kept {
    float max, scale;
    Cut by_logit{ALL, ALL}, by_exponent{ALL, ALL}, by_distance{ALL, ALL};
    float min_weight = 0.0f;
    float mean = 0.0f;  // of exponents

    __device__ __forceinline__ float exponent(float logit) const { return exponent_of(logit, max, scale); }
    __device__ __forceinline__ static uint32_t logit_key(float logit) { return ~order(logit); }
    __device__ __forceinline__ static uint32_t exponent_key(float exponent) { return order(-exponent); }
    __device__ __forceinline__ uint32_t distance_key(float exponent) const {
        return order(fabsf(__fsub_rn(exponent, mean)));
    }
    // Tells the exponent, too. What has no weight takes part in nothing but top_k.
    __device__ __forceinline__ bool has(uint32_t id, float logit, float& out) const {
        out = exponent(logit);
        return by_logit.keeps(logit_key(logit), id) && out >= LEAST_EXPONENT &&
               by_exponent.keeps(exponent_key(out), id) && (min_weight <= 0.0f || weight_of(out) >= min_weight) &&
               by_distance.keeps(distance_key(out), id);
    }
    // Whether the token is there to be compared.
    __device__ __forceinline__ bool key(By by, uint32_t id, float logit, uint32_t& out) const {
        if (by == BY_LOGIT || by == BY_LIKELIHOOD) {
            out = logit_key(logit);
            return true;
        }
        float exponent;
        const bool is_kept = has(id, logit, exponent);
        out = by == BY_EXPONENT ? exponent_key(exponent) : by == BY_DISTANCE ? distance_key(exponent) : 0;
        return is_kept;
    }
};

__device__ __forceinline__ void add_wide(uint32_t* low, uint32_t* high, Wide value) {
    const uint32_t addend = static_cast<uint32_t>(value);
    const uint32_t before = atomicAdd(low, addend);
    const uint32_t carried = static_cast<uint32_t>(value >> 32) + (before + addend < before);
    if (carried != 0) atomicAdd(high, carried);
}

// The digit at which the running sum of the bins reaches `target`; `target` becomes what is left to reach within it.
// Returns the number of tokens in it, 0 if all bins together do not reach the target.
__device__ __forceinline__ uint32_t find_bin(Bench& bench, bool counts, Wide& target, uint32_t& bin) {
    const uint32_t first = threadIdx.x * BINS_PER_THREAD;
    Wide values[BINS_PER_THREAD], own = 0, total;
#pragma unroll
    for (int i = 0; i < BINS_PER_THREAD; i++) {
        const uint32_t at = first + i;
        values[i] = counts ? bench.count[at] : static_cast<Wide>(bench.high[at]) << 32 | bench.low[at];
        own += values[i];
    }
    Wide before = block_scan(own, bench.partial, total);
#pragma unroll
    for (int i = 0; i < BINS_PER_THREAD; i++) {
        if (before < target && target <= before + values[i]) {
            bench.found = {first + i, bench.count[first + i], target - before};
        }
        before += values[i];
    }
    __syncthreads();
    if (target > total) return 0;
    bin = bench.found.bin;
    target = bench.found.rest;
    return bench.found.count;
}

// Keeps the tokens with the least keys, of equal ones those with the lower ids, until `target` is reached by their
// number (BY_LOGIT, BY_LIKELIHOOD) or their weights. BY_ID the cut's id is that of the last one.
//
// Selection by digits of 11 bits, the highest first, of the key and then of the ids of those that have this key. It
// ends early at a key that one token has: the bits not looked at are set.
__device__ __forceinline__ Cut find_cut(Bench& bench, const Items& items, const Kept& kept, By by, Wide target) {
    const bool counts = by == BY_LOGIT || by == BY_LIKELIHOOD;
    Cut cut{ALL, ALL};
    bool ids = by == BY_ID;
    uint32_t prefix = 0;
    int shift = ids ? ID_BITS : 32;
    while (true) {
        const int above = shift;
        shift = max(shift - BIN_BITS, 0);
        for (int i = threadIdx.x; i < BINS; i += THREADS) bench.low[i] = bench.high[i] = bench.count[i] = 0;
        __syncthreads();
        items.each([&](uint32_t id, float logit) {
            uint32_t value;
            if (!kept.key(by, id, logit, value)) return;
            if (ids && by != BY_ID && value != cut.key) return;
            if (ids) value = id;
            // Of 64 bits, because nothing is above the first digit of 32.
            if (static_cast<Wide>(value) >> above != prefix) return;
            const uint32_t bin = value >> shift & ((1u << (above - shift)) - 1);
            if (!counts) add_wide(&bench.low[bin], &bench.high[bin], fixed(weight_of(kept.exponent(logit))));
            atomicAdd(&bench.count[bin], 1u);
        });
        __syncthreads();
        uint32_t bin = 0;
        const uint32_t count = find_bin(bench, counts, target, bin);
        if (count == 0) return {ALL, ALL};
        prefix = prefix << (above - shift) | bin;
        if (!ids && count == 1) return {prefix << shift | ((1u << shift) - 1), ALL};
        if (shift > 0) continue;
        if (ids) return {cut.key, prefix};
        cut.key = prefix;
        ids = true;
        prefix = 0;
        shift = ID_BITS;
    }
}

struct Totals {
    Wide weight, surprise;
};

__device__ __forceinline__ Totals kept_totals(Bench& bench, const Items& items, const Kept& kept) {
    Totals totals{0, 0};
    items.each([&](uint32_t id, float logit) {
        float exponent;
        if (!kept.has(id, logit, exponent)) return;
        const Wide weight = fixed(weight_of(exponent));
        totals.weight += weight;
        totals.surprise += fixed_surprise(weight, exponent);
    });
    totals.weight = block_sum(totals.weight, bench.partial);
    totals.surprise = block_sum(totals.surprise, bench.partial);
    return totals;
}

} // namespace sampling
