// Keys and values on their way from the cache's pages into shared memory.
#pragma once

#include "attention_task.cuh"

namespace attention {

template <int HD, class E, int TEAM> struct Pages {
    using T = Task<HD, E, TEAM>;
    using M = typename T::M;
    // Pieces of 16 bytes of a row of keys, of transposed values, and of a page's scales.
    static constexpr int KEY_CHUNKS = M::KEY_ROW / 16;
    static constexpr int VALUE_CHUNKS = PAGE_POSITIONS * E::BYTES / 16;
    static constexpr int SCALE_CHUNKS = PAGE_POSITIONS * 4 / 16;

    const T& task;

    // Ids of a unit's blocks.
    __device__ __forceinline__ void load_ids(int unit, uint32_t (&ids)[UNIT_PAGES]) const {
#pragma unroll
        for (int b = 0; b < UNIT_PAGES; b++) {
            const int page = unit * UNIT_PAGES + b;
            ids[b] = task.is_seen(page) ? task.args.tables[task.item.table + page] : 0;
        }
    }

    // Pages of which nothing is seen are not read, and become 0.
    __device__ __forceinline__ void copy_keys(int unit, const uint32_t (&ids)[UNIT_PAGES]) const {
        const int row_bytes = task.args.head_dim * E::BYTES;
        const int first_row = threadIdx.x / KEY_CHUNKS, byte = threadIdx.x % KEY_CHUNKS * 16;
        unsigned char* to = task.memory.keys(unit) + first_row * M::KEY_ROW + byte % M::SLOT;
        const int slot = byte / M::SLOT ^ M::key_bits(first_row);
        if (unit >= task.end) return;
#pragma unroll
        for (int b = 0; b < UNIT_PAGES; b++) {
            const bool seen = task.is_seen(unit * UNIT_PAGES + b);
            const uint8_t* page = task.keys(ids[b]);
            const uint8_t* from = page + first_row * row_bytes + byte;
#pragma unroll
            for (int row = 0; row < PAGE_POSITIONS; row += THREADS / KEY_CHUNKS) {
                const int permuted = (slot ^ M::key_bits(row)) * M::SLOT;
                unsigned char* chunk = to + (b * PAGE_POSITIONS + row) * M::KEY_ROW + permuted;
                cp_async_16_zfill(chunk, from + row * row_bytes, seen && byte < row_bytes);
            }
            if (E::SCALED) copy_scales(task.memory.key_scales(unit), b, page, seen);
        }
    }
    __device__ __forceinline__ void copy_values(int unit, const uint32_t (&ids)[UNIT_PAGES]) const {
        const int first_row = threadIdx.x / VALUE_CHUNKS, byte = threadIdx.x % VALUE_CHUNKS * 16;
        unsigned char* to = task.memory.values(unit) + first_row * M::VALUE_ROW + byte;
        if (unit >= task.end) return;
#pragma unroll
        for (int b = 0; b < UNIT_PAGES; b++) {
            const bool seen = task.is_seen(unit * UNIT_PAGES + b);
            const uint8_t* page = task.keys(ids[b]) + task.half_page();
            unsigned char* slot = to + (b ^ M::value_bits(first_row)) * M::SLOT;
#pragma unroll
            for (int row = 0; row < HD; row += THREADS / VALUE_CHUNKS) {
                const uint8_t* from = page + threadIdx.x * 16 + row * VALUE_CHUNKS * 16;
                cp_async_16_zfill(slot + row * M::VALUE_ROW, from, seen && row + first_row < (int)task.args.head_dim);
            }
            if (E::SCALED) copy_scales(task.memory.value_scales(unit), b, page, seen);
        }
    }

    // Makes 0 of the values of positions that no query sees: whatever was there last, a NaN say, would not become
    // nothing when multiplied by a weight of 0. A thread takes those that it copied itself. Bytes have no NaN, and scales
    // are not multiplied where nothing is seen.
    __device__ __forceinline__ void clear_unseen_values(int unit) const {
        // Rarely done, and not worth registers.
#pragma unroll 1
        for (int b = 0; b < UNIT_PAGES; b++) {
#pragma unroll 1
            for (int i = threadIdx.x; i < HD * VALUE_CHUNKS; i += THREADS) {
                const int position = unit * UNIT + b * PAGE_POSITIONS + i % VALUE_CHUNKS * 8;
                const int row = i / VALUE_CHUNKS, slot = (b ^ M::value_bits(row)) * M::SLOT;
                unsigned char* chunk = task.memory.values(unit) + row * M::VALUE_ROW + slot + i % VALUE_CHUNKS * 16;
                __half* values = reinterpret_cast<__half*>(chunk);
                for (int j = 0; j < 8; j++) {
                    const bool seen = position + j <= task.last_position() && position + j >= task.first_seen();
                    if (!seen) values[j] = __float2half_rn(0.0f);
                }
            }
        }
    }

private:
    // The scales behind a half page.
    __device__ __forceinline__ void copy_scales(float* to, int b, const uint8_t* half, bool seen) const {
        const int i = (int)threadIdx.x;
        if (i < SCALE_CHUNKS) {
            const uint8_t* from = half + PAGE_POSITIONS * task.args.head_dim + i * 16;
            cp_async_16_zfill(to + b * PAGE_POSITIONS + i * 4, from, seen);
        }
    }
};

} // namespace attention
