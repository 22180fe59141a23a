// The sums of an online softmax over the values: units added to them, and sums of partitions merged.
#pragma once

#include "attention_scores.cuh"

namespace attention {

// What sums before and after are multiplied by when they meet. All merges go through here and `merged`.
struct Meeting {
    float max, before, after;

    __device__ __forceinline__ Meeting(float max_before, float max_after) {
        max = fmaxf(max_before, max_after);
        // Nothing seen on either side.
        const float reference = max == -INFINITY ? 0.0f : max;
        before = exp_2(max_before - reference);
        after = exp_2(max_after - reference);
    }
    __device__ __forceinline__ float merged(float earlier, float later) const {
        return __fmaf_rn(earlier, before, __fmul_rn(later, after));
    }
};

// Of a lane's two rows, g and g + 8 of the fragment, not yet normalised.
template <int HD, class E, int TEAM> struct Sums {
    using T = Task<HD, E, TEAM>;
    using M = typename T::M;
    using S = Scores<HD, E, TEAM>;
    static constexpr int TILES = T::VALUE_TILES;

    // Columns 2t and 2t + 1 of every 8, of row g, then of row g + 8.
    float values[TILES][4];
    float max[2], weights[2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) values[i][j] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            max[i] = -INFINITY;
            weights[i] = 0.0f;
        }
    }

    // Adds the values of a unit by its scores.
    __device__ __forceinline__ void add(const T& task, int unit, const S& scores) {
        float reference[2], lane_sums[2] = {};
        raise_max(task, scores, reference);
#pragma unroll
        for (int b = 0; b < UNIT_PAGES; b++) {
            uint32_t pairs[2][4];
            weigh(task, unit, b, scores, reference, lane_sums, pairs);
            multiply_values(task, unit, b, pairs);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            lane_sums[i] += __shfl_xor_sync(0xffffffff, lane_sums[i], 1);
            lane_sums[i] += __shfl_xor_sync(0xffffffff, lane_sums[i], 2);
            weights[i] += lane_sums[i];
        }
    }

    __device__ __forceinline__ void merge(const Sums& later) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const Meeting meeting(max[i], later.max[i]);
            max[i] = meeting.max;
            weights[i] = meeting.merged(weights[i], later.weights[i]);
#pragma unroll
            for (int n = 0; n < TILES; n++) {
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; j++) values[n][j] = meeting.merged(values[n][j], later.values[n][j]);
            }
        }
    }

private:
    // The rows' new maxima, with what came before rescaled to them. `reference` is what to take from scores.
    __device__ __forceinline__ void raise_max(const T& task, const S& scores, float (&reference)[2]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            reference[i] = 0.0f;
            if (i == 1 && !task.upper()) continue;
            float raised = max[i];
#pragma unroll
            for (int n = 0; n < UNIT_TILES; n++) {
                const float2 pair = scores.pair(n, i);
                raised = fmaxf(raised, fmaxf(pair.x, pair.y));
            }
            raised = fmaxf(raised, __shfl_xor_sync(0xffffffff, raised, 1));
            raised = fmaxf(raised, __shfl_xor_sync(0xffffffff, raised, 2));
            // Nothing seen yet.
            reference[i] = raised == -INFINITY ? 0.0f : raised;
            const float factor = exp_2(max[i] - reference[i]);
            max[i] = raised;
            weights[i] = __fmul_rn(weights[i], factor);
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                values[n][2 * i] = __fmul_rn(values[n][2 * i], factor);
                values[n][2 * i + 1] = __fmul_rn(values[n][2 * i + 1], factor);
            }
        }
    }

    // Scores of page `b` become weights as f16, times the scales of values, in the order of the product with V. Adds what
    // the lane's sums of weights grow by.
    __device__ __forceinline__ void weigh(const T& task, int unit, int b, const S& scores, const float (&reference)[2],
                                          float (&lane_sums)[2], uint32_t (&pairs)[2][4]) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int n = 0; n < PAGE_TILES; n++) {
                uint32_t& pair = pairs[n / 2][n % 2 * 2 + i];
                pair = 0;
                if (i == 1 && !task.upper()) continue;
                const int tile = b * PAGE_TILES + n;
                const float2 score = scores.pair(tile, i);
                float low = exp_2(score.x - reference[i]), high = exp_2(score.y - reference[i]);
                lane_sums[i] += low + high;
                if constexpr (E::SCALED) {
                    const float* at = task.memory.value_scales(unit) + scores.place(tile);
                    const float2 scales = *reinterpret_cast<const float2*>(at);
                    low = low == 0.0f ? 0.0f : __fmul_rn(low * E::WEIGHT_FACTOR, scales.x);
                    high = high == 0.0f ? 0.0f : __fmul_rn(high * E::WEIGHT_FACTOR, scales.y);
                }
                pair = pack_halves(low, high);
            }
        }
    }

    __device__ __forceinline__ void multiply_values(const T& task, int unit, int b, const uint32_t (&pairs)[2][4]) {
        const int row = task.member * TILES * 8 + task.lane / 4;
        const unsigned char* rows = task.memory.values(unit) + row * M::VALUE_ROW + task.lane % 4 * 8 * E::BYTES;
        const unsigned char* slot = rows + (b ^ M::value_bits(row)) * M::SLOT;
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            const uint4 v = E::load(slot + n * 8 * M::VALUE_ROW);
            const uint32_t first[2] = {v.x, v.y}, second[2] = {v.z, v.w};
            mma_m16n8k16(values[n], pairs[0], first);
            mma_m16n8k16(values[n], pairs[1], second);
        }
    }
};

} // namespace attention
