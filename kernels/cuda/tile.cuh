// The formats of weights, each a kind of integers and a kind of scales, and the sets that kernels are compiled for.
#pragma once

#include "tile_integers.cuh"
#include "tile_scales.cuh"

// The formats' numbers, as the host gives them.
enum TileKind : uint32_t { F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS };

template <TileKind NUMBER, class Integers, class Scales> struct Format {
    static constexpr TileKind KIND = NUMBER;
    // Every tile is whole lines of 32 bytes, and begins at one.
    static constexpr int BYTES = Integers::BYTES + Scales::BYTES;
    static_assert(BYTES % 32 == 0, "tiles begin at sectors");
    using Quarter = typename Integers::Quarter;
    using Raw = typename Scales::Raw;
    using Prepared = typename Scales::Prepared;

    static __device__ __forceinline__ Quarter load_quarter(const uint8_t* tile, int quarter, int lane) {
        return Integers::load(tile, quarter, lane);
    }
    static __device__ __forceinline__ Raw load_scales(const uint8_t* tile, int lane) {
        return Scales::load(tile + Integers::BYTES, lane);
    }
    static __device__ __forceinline__ Prepared prepare(const Raw& raw, int lane) { return Scales::prepare(raw, lane); }

    // The weights of block `block` of the tile, which is block `block % 2` of its quarter: [row][pair].
    static __device__ __forceinline__ void weights(const Quarter& quarter, const Prepared& prepared, int block, int lane,
                                                   uint32_t (&out)[2][4]) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            __half2 scale, min;
            Scales::get(prepared, block, row, lane, scale, min);
#pragma unroll
            for (int p = 0; p < 4; p++) {
                __half2 pair = Integers::pair(quarter, block % QUARTER_BLOCKS, row, p);
                if constexpr (Scales::MINS) {
                    pair = __hfma2(pair, scale, min);
                } else if constexpr (Scales::SCALED) {
                    pair = __hmul2(pair, scale);
                }
                out[row][p] = half2_to_bits(pair);
            }
        }
    }
};

using TileQ4_0 = Format<Q4_0, OnePlane<NibblePlane, 8>, BlockScales>;
using TileQ4_1 = Format<Q4_1, OnePlane<NibblePlane, 0>, BlockScalesMins>;
using TileQ5_0 = Format<Q5_0, TwoPlanes<NibblePlane, BitPlane<4>, 16>, BlockScales>;
using TileQ5_1 = Format<Q5_1, TwoPlanes<NibblePlane, BitPlane<4>, 0>, BlockScalesMins>;
using TileQ8_0 = Format<Q8_0, Bytes, BlockScales>;
using TileQ2_K = Format<Q2_K, OnePlane<PairPlane<0>, 0>, SuperScalesMins16>;
using TileQ3_K = Format<Q3_K, TwoPlanes<PairPlane<0>, BitPlane<2>, 4>, SuperScales16>;
using TileQ4_K = Format<Q4_K, OnePlane<NibblePlane, 0>, SuperScalesMins>;
using TileQ5_K = Format<Q5_K, TwoPlanes<NibblePlane, BitPlane<4>, 0>, SuperScalesMins>;
using TileQ6_K = Format<Q6_K, TwoPlanes<NibblePlane, PairPlane<4>, 32>, SuperScales16>;
using TileIQ4_NL = Format<IQ4_NL, IndexedNibbles, BlockScales>;
using TileIQ4_XS = Format<IQ4_XS, IndexedNibbles, SuperScales>;
using TileF16 = Format<F16, Halves, NoScales>;

// Formats that one kernel is compiled for.
template <class... F> struct Formats {
    // Blocks of the product with few tokens whose registers fit into a multiprocessor.
    static constexpr int FEW_BLOCKS = (sizeof...(F) > 1 || (... || (F::KIND == F16 || F::KIND == Q8_0))) ? 4 : 5;

    // Calls `task.template run<Format>()` of the format with this number, if it is one of them.
    template <class Task> static __device__ __forceinline__ void with(uint32_t kind, Task& task) {
        ((kind == F::KIND ? (task.template run<F>(), true) : false) || ...);
    }
};

// Every set of formats that products have a kernel for: each format, and together what files mix in one product. More
// than two in a kernel cost registers in all of them.
#define FOR_EACH_FORMAT_SET(do)                                                                                       \
    do(q4_k_q6_k, TileQ4_K, TileQ6_K) do(q5_k_q6_k, TileQ5_K, TileQ6_K) do(q2_k, TileQ2_K) do(q3_k, TileQ3_K)         \
    do(q8_0, TileQ8_0) do(q4_0, TileQ4_0) do(q4_1, TileQ4_1) do(q5_0, TileQ5_0) do(q5_1, TileQ5_1)                     \
    do(iq4_nl, TileIQ4_NL) do(iq4_xs, TileIQ4_XS) do(f16, TileF16)
