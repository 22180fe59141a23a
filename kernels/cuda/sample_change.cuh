// What a request changes about the logits that its tokens are chosen from: penalties, biases, bans, masks.
#pragma once

#include "sample.cuh"

namespace sampling {

__device__ __forceinline__ bool is_in(uint32_t id, uint32_t begin, uint32_t end) { return id >= begin && id < end; }

// Penalties of what the run's drafts before this row count.
__device__ __forceinline__ void penalise_drafts(const Workspace& space, const Row& row, const Slot& slot,
                                                const float* raw, float* changed, uint32_t begin, uint32_t end) {
    const Row* drafts = space.step->rows + row.first + 1;
    for (uint32_t i = threadIdx.x; i < row.index; i += THREADS) {
        const uint32_t id = drafts[i].token;
        if (!is_in(id, begin, end)) continue;
        uint32_t count = slot.counts[id];
        bool is_first = true;
        for (uint32_t j = 0; j < row.index; j++) {
            const bool is_same = drafts[j].token == id;
            count += is_same;
            is_first &= !is_same || j >= i;
        }
        if (is_first) changed[id] = penalised(raw[id], count, slot);
    }
}

// Biases lie in ascending order of ids; those of one id are added one after the other, by one thread.
__device__ __forceinline__ void add_biases(const Slot& slot, float* changed, uint32_t begin, uint32_t end) {
    uint32_t first = 0, last = slot.num_biases;
    while (first < last) {
        const uint32_t middle = (first + last) / 2;
        if (slot.biases[middle].id < begin) first = middle + 1;
        else last = middle;
    }
    for (uint32_t i = first + threadIdx.x; i < slot.num_biases; i += THREADS) {
        const uint32_t id = slot.biases[i].id;
        if (id >= end) break;
        if (i > first && slot.biases[i - 1].id == id) continue;
        float logit = changed[id];
        for (uint32_t j = i; j < slot.num_biases && slot.biases[j].id == id; j++) {
            logit = __fadd_rn(logit, slot.biases[j].value);
        }
        changed[id] = logit;
    }
}

// Writes the chunk as it is to be chosen from; all threads may read it then.
__device__ __forceinline__ void change_chunk(const Workspace& space, const Row& row, const Slot& slot, const float* raw,
                                             float* changed, uint32_t begin, uint32_t end) {
    for (uint32_t id = begin + threadIdx.x; id < end; id += THREADS) {
        changed[id] = slot.counts == nullptr ? raw[id] : penalised(raw[id], slot.counts[id], slot);
    }
    __syncthreads();
    if (slot.counts != nullptr) penalise_drafts(space, row, slot, raw, changed, begin, end);
    __syncthreads();
    add_biases(slot, changed, begin, end);
    __syncthreads();
    if (holds_back_stops(slot, row)) {
        // Where a mask leaves nothing but stops, they are better than what it forbids.
        const float banned = row.mask == NONE ? -FLT_MAX : -FLT_MAX / 2.0f;
        for (uint32_t i = threadIdx.x; i < slot.num_stops; i += THREADS) {
            if (is_in(slot.stops[i], begin, end)) changed[slot.stops[i]] = banned;
        }
    }
    __syncthreads();
    if (row.mask == NONE) return;
    const uint32_t* mask = space.masks + static_cast<size_t>(row.mask) * ((space.vocab + 31) / 32);
    for (uint32_t id = begin + threadIdx.x; id < end; id += THREADS) {
        if ((mask[id / 32] >> id % 32 & 1) == 0) changed[id] = -FLT_MAX;
    }
    __syncthreads();
}

} // namespace sampling
