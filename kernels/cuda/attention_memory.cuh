// Shared memory of a block of attention: what lies where, and how it avoids conflicts of banks.
#pragma once

#include "attention_elements.cuh"
#include "step.cuh"

namespace attention {

constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
// Rows of a fragment.
constexpr int FRAGMENT_ROWS = 16;
// Positions of one turn of the loop, and of one softmax.
constexpr int UNIT = 64;
constexpr int UNIT_PAGES = UNIT / PAGE_POSITIONS;
// Bytes of keys, or values, that a block has under way at least.
constexpr int BYTES_AHEAD = 16384;

// Units of keys (64 positions, HD) and of transposed values (HD, 64 positions), and what lies beside them. Four threads
// read a slot of 32 elements of a row together. Slots of rows that are read at once are permuted into different banks.
template <int HD, class E, int TEAM> struct Memory {
    static constexpr int SLOT = 32 * E::BYTES;
    static constexpr int KEY_ROW = HD * E::BYTES;
    static constexpr int VALUE_ROW = UNIT * E::BYTES;
    static constexpr int HALF = UNIT * HD * E::BYTES;
    static constexpr int SCALES = E::SCALED ? UNIT * 4 : 0;
    static constexpr int DEPTH = HALF < BYTES_AHEAD ? BYTES_AHEAD / HALF : 1;
    static constexpr int TEAMS = WARPS / TEAM;
    static constexpr int SCORES = TEAM > 1 ? TEAMS * FRAGMENT_ROWS * UNIT * 4 : 0;
    // Queries stay in registers where those suffice.
    static constexpr bool QUERIES_HELD = TEAM == 1 && HD <= 64;
    static constexpr int QUERIES = QUERIES_HELD ? 0 : TEAMS * FRAGMENT_ROWS * HD * 2;
    // Keys of all units under way, values, scales of both, scores, queries.
    static constexpr int BYTES = DEPTH * 2 * (HALF + SCALES) + SCORES + QUERIES;

    unsigned char* start;

    __device__ __forceinline__ unsigned char* keys(int unit) const { return start + unit % DEPTH * HALF; }
    __device__ __forceinline__ unsigned char* values(int unit) const { return keys(unit) + DEPTH * HALF; }
    __device__ __forceinline__ float* key_scales(int unit) const {
        return reinterpret_cast<float*>(start + DEPTH * 2 * HALF + unit % DEPTH * SCALES);
    }
    __device__ __forceinline__ float* value_scales(int unit) const { return key_scales(unit) + DEPTH * SCALES / 4; }
    // (8 columns of positions, 16 rows, 8 positions) of a team.
    __device__ __forceinline__ float* scores(int team) const {
        return reinterpret_cast<float*>(start + DEPTH * 2 * (HALF + SCALES)) + team * FRAGMENT_ROWS * UNIT;
    }
    // (HD / 32, 2, 32 lanes, 4 words) of a team.
    __device__ __forceinline__ uint4* queries(int team) const {
        unsigned char* queries = start + DEPTH * 2 * (HALF + SCALES) + SCORES;
        return reinterpret_cast<uint4*>(queries) + team * FRAGMENT_ROWS * HD / 8;
    }

    // What the numbers of a row's slots are permuted by. Read together: of keys the rows 2i and 2i + 1, of bytes those 8
    // further as well; of values two neighbours, of bytes four. It is the exclusive or of those of a row's bits.
    static __device__ __forceinline__ int key_bits(int row) {
        const int next = row & 1, far = row >> 3 & 1;
        return E::BYTES == 2 ? next : HD == 64 ? far : next | far << 1;
    }
    static __device__ __forceinline__ int value_bits(int row) { return E::BYTES == 2 ? row & 1 : row >> 1 & 1; }
};

} // namespace attention
