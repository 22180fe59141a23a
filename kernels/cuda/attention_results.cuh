// What becomes of sums: rows of the next product's operand, or partial results which the last block to end merges.
#pragma once

#include "attention_sums.cuh"
#include "operand.cuh"

namespace attention {

// Partial results that a thread loads together.
constexpr int PARTIALS_AHEAD = 8;

template <int HD, class E, int TEAM> struct Results {
    using T = Task<HD, E, TEAM>;
    using Sum = Sums<HD, E, TEAM>;

    const T& task;

    __device__ __forceinline__ void write(const Sum& total) const {
        for_each_pair(total, [&](int row, int column, float2 pair, int i) {
            *reinterpret_cast<uint32_t*>(output(row, column)) = finished(pair.x, pair.y, total.weights[i]);
        });
    }

    __device__ __forceinline__ void write_partial(int index, const Sum& sums) const {
        const int head_dim = task.args.head_dim, rows = task.rows();
        float* to = partial(index);
        for_each_pair(sums, [&](int row, int column, float2 pair, int) {
            *reinterpret_cast<float2*>(to + row * head_dim + column) = pair;
        });
        float* rest = to + rows * head_dim;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = task.row(i);
            if (task.member == 0 && task.lane % 4 == 0 && row < rows) {
                rest[row] = sums.max[i];
                rest[rows + row] = sums.weights[i];
            }
        }
    }

    // Partitions of which the item sees nothing: their sums are not read.
    __device__ __forceinline__ void write_empty_partials() const {
        const AttentionItem& item = task.item;
        for (int p = item.begin; p < (int)item.end; p++) {
            const bool seen = (p + 1) * PARTITION_UNITS > task.begin && p * PARTITION_UNITS < task.end;
            if (!seen && (int)threadIdx.x < task.rows()) {
                partial(item.partial + p - item.begin)[task.rows() * task.args.head_dim + threadIdx.x] = -INFINITY;
            }
        }
    }

    // Says that the item has ended. The last block to do so merges all partial results in order.
    __device__ __forceinline__ void end_split() const {
        __shared__ uint32_t before;
        uint32_t* counter = task.args.counters + task.item.counter;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            before = atomicAdd(counter, 1u);
            if (before + 1 == task.item.items) *counter = 0;
        }
        __syncthreads();
        if (before + 1 != task.item.items) return;
        __threadfence();
        const int fours = task.args.head_dim / 4;
        for (int i = threadIdx.x; i < task.rows() * fours; i += THREADS) merge_partials(i / fours, i % fours);
    }

private:
    // Calls f(row, column, values, i) for every pair of columns that the lane has of rows that are there, and that the
    // head has.
    template <class F> __device__ __forceinline__ void for_each_pair(const Sum& sums, F f) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (task.row(i) >= task.rows()) continue;
#pragma unroll
            for (int n = 0; n < Sum::TILES; n++) {
                const int column = (task.member * Sum::TILES + n) * 8;
                const float2 pair = make_float2(sums.values[n][2 * i], sums.values[n][2 * i + 1]);
                if (column < (int)task.args.head_dim) f(task.row(i), column + task.lane % 4 * 2, pair, i);
            }
        }
    }

    __device__ __forceinline__ __half* output(int row, int column) const {
        const int group = task.args.group;
        const int token = task.item.first_row + row / group, head = task.item.kv_head * group + row % group;
        return task.args.out + operand_index(token, head * task.args.head_dim + column, task.args.out_columns);
    }

    __device__ __forceinline__ static uint32_t finished(float low, float high, float weights) {
        const float factor = __fdiv_rn(1.0f, __fmul_rn(weights, E::WEIGHT_FACTOR));
        return pack_halves(limited(__fmul_rn(low, factor)), limited(__fmul_rn(high, factor)));
    }

    // Sums, (rows, head_dim), then the rows' maxima and weights, padded to whole groups of four floats.
    __device__ __forceinline__ float* partial(int i) const {
        const int len = (task.rows() * task.args.head_dim + 2 * task.rows() + 3) / 4;
        return reinterpret_cast<float*>(task.args.partials + task.item.partials + (size_t)i * len);
    }

    // Four columns of one row.
    __device__ __forceinline__ void merge_partials(int row, int four) const {
        const int head_dim = task.args.head_dim, rows = task.rows(), count = task.item.num_partials;
        float sums[4] = {}, max = -INFINITY, weights = 0.0f;
        for (int first = 0; first < count; first += PARTIALS_AHEAD) {
            float4 values[PARTIALS_AHEAD];
            float maxima[PARTIALS_AHEAD], later_weights[PARTIALS_AHEAD];
#pragma unroll
            for (int i = 0; i < PARTIALS_AHEAD; i++) {
                const float* from = partial(min(first + i, count - 1));
                const float* rest = from + rows * head_dim + row;
                values[i] = __ldcg(reinterpret_cast<const float4*>(from) + row * (head_dim / 4) + four);
                maxima[i] = __ldcg(rest);
                later_weights[i] = __ldcg(rest + rows);
            }
#pragma unroll
            for (int i = 0; i < PARTIALS_AHEAD; i++) {
                if (first + i >= count || maxima[i] == -INFINITY) continue;
                const Meeting meeting(max, maxima[i]);
                max = meeting.max;
                weights = meeting.merged(weights, later_weights[i]);
                sums[0] = meeting.merged(sums[0], values[i].x);
                sums[1] = meeting.merged(sums[1], values[i].y);
                sums[2] = meeting.merged(sums[2], values[i].z);
                sums[3] = meeting.merged(sums[3], values[i].w);
            }
        }
        const uint32_t low = finished(sums[0], sums[1], weights), high = finished(sums[2], sums[3], weights);
        *reinterpret_cast<uint2*>(output(row, four * 4)) = make_uint2(low, high);
    }
};

} // namespace attention
