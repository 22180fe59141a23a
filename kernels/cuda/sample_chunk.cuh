// A pass of a block over its chunk of a row: the largest logit; sums of weights and the list of what may be kept.
#pragma once

#include "sample_select.cuh"

namespace sampling {

// The largest of the chunk's logits. Every warp's own goes to `peaks`, (WARPS).
__device__ __forceinline__ Wide scan_chunk(const float* logits, uint32_t begin, uint32_t end, uint32_t* peaks,
                                           Wide* partial) {
    Wide best = 0;
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++) {
        const uint32_t id = begin + i * THREADS + threadIdx.x;
        const Wide other = id < end ? place(logits[id], id) : 0;
        best = other > best ? other : best;
    }
    best = warp_max(best);
    if (lane_id() == 0) peaks[warp_id()] = static_cast<uint32_t>(best >> 32);
    return block_max(best, partial);
}

// What is asked of a row: sums, and a list of its tokens.
struct Wanted {
    float max, scale;
    bool surprise = false;      // its sum is asked for
    bool lists = false;         // tokens are listed that have
    uint32_t least_key = 0;     // at least this peak_key
    float least_weight = 0.0f;  // and at least this weight,
    bool weightless = false;    // or none at all
    Item* list = nullptr;
    uint32_t capacity = 0;
    uint32_t* length = nullptr;
};

// Sums the chunk's weights and lists its tokens. `place` is shared.
__device__ __forceinline__ Totals weigh_chunk(const float* logits, uint32_t begin, uint32_t end, const Wanted& wanted,
                                              Wide* partial, uint32_t* place) {
    float own[LOGITS_PER_THREAD];
#pragma unroll
    for (int i = 0; i < LOGITS_PER_THREAD; i++) {
        const uint32_t id = begin + i * THREADS + threadIdx.x;
        own[i] = id < end ? logits[id] : -INFINITY;
    }
    Totals totals{0, 0};
    uint32_t listed = 0;  // a bit for each of the thread's tokens
    // As in Items::each, the code of a token is there once.
#pragma unroll 1
    for (uint32_t bit = 1; bit < 1u << LOGITS_PER_THREAD; bit *= 2) {
        const float logit = own[0];
#pragma unroll
        for (int i = 1; i < LOGITS_PER_THREAD; i++) own[i - 1] = own[i];
        const float exponent = exponent_of(logit, wanted.max, wanted.scale);
        bool is_light = true;
        if (exponent >= LEAST_EXPONENT) {
            const float weight = weight_of(exponent);
            const Wide units = fixed(weight);
            totals.weight += units;
            if (wanted.surprise) totals.surprise += fixed_surprise(units, exponent);
            is_light = weight < wanted.least_weight;
        }
        const bool takes = peak_key(logit) >= wanted.least_key && (wanted.weightless || !is_light);
        if (takes && logit >= -FLT_MAX) listed |= bit;
    }
    if (wanted.lists) {
        Wide total;
        const uint32_t before = static_cast<uint32_t>(block_scan(__popc(listed), partial, total));
        if (threadIdx.x == 0) *place = atomicAdd(wanted.length, static_cast<uint32_t>(total));
        __syncthreads();
        for (uint32_t at = *place + before; listed != 0; listed &= listed - 1, at++) {
            const uint32_t id = begin + (__ffs(static_cast<int>(listed)) - 1) * THREADS + threadIdx.x;
            if (at < wanted.capacity) wanted.list[at] = {id, logits[id]};
        }
    }
    totals.weight = block_sum(totals.weight, partial);
    if (wanted.surprise) totals.surprise = block_sum(totals.surprise, partial);
    return totals;
}

} // namespace sampling
