// Matrix products of warps (mma.sync) and loads of their fragments (ldmatrix), in the fragment layouts of the PTX ISA.
// Within one mma the card leaves the order and the intermediate precision of the sum open; here it is ascending k in
// float, with exact products, so results equal the card's only within rounding.
#pragma once

#include <cstring>
#include <immintrin.h>
#include <utility>

#include "collectives.h"
#include "half.h"

namespace emulation {

using Float8 = float __attribute__((vector_size(32), may_alias));
using Words8 = uint32_t __attribute__((vector_size(32), may_alias));

// The low or the high numbers of eight pairs.
template <bool bfloat16, bool high>
Float8 widen(const uint32_t* pairs) {
    Words8 words;
    memcpy(&words, pairs, sizeof words);
    if constexpr (bfloat16) return reinterpret_cast<Float8>(high ? words & 0xffff0000u : words << 16);
    words = high ? words >> 16 : words & 0xffffu;
#ifdef __F16C__
    using Shorts8 = uint16_t __attribute__((vector_size(16)));
    const Shorts8 shorts = __builtin_convertvector(words, Shorts8);
    return reinterpret_cast<Float8>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(shorts)));
#else
    Float8 result;
    for (int i = 0; i < 8; i++) result[i] = half_value(static_cast<uint16_t>(words[i]));
    return result;
#endif
}

// Products of halves are exact in float, so whether they are fused into the sum makes no difference.
inline Float8 multiply_add(float a, Float8 b, Float8 sum) {
#ifdef __FMA__
    return _mm256_fmadd_ps(_mm256_set1_ps(a), b, sum);
#else
    return sum + a * b;
#endif
}

// Eight rows of the sums. Indices are constants, so that g++ keeps the sums in registers.
template <std::size_t... I>
void multiply_rows(float (*sums)[8], const float (*even)[8], const float (*odd)[8], const Float8* right,
                   std::index_sequence<I...>) {
    Float8 sum[] = {reinterpret_cast<const Float8&>(sums[I])...};
    for (int pair = 0; pair < 8; pair++) {
        ((sum[I] = multiply_add(even[I][pair], right[2 * pair], sum[I])), ...);
        ((sum[I] = multiply_add(odd[I][pair], right[2 * pair + 1], sum[I])), ...);
    }
    ((reinterpret_cast<Float8&>(sums[I]) = sum[I]), ...);
}

template <bool bfloat16>
void compute_mma(Warp& warp, uint32_t lanes) {
    if (lanes != 0xffffffffu) fail("mma of a warp in which lanes are missing (there: %08x)", lanes);
    alignas(64) float even[16][8], odd[16][8];
    Float8 right[16];
    for (int row = 0; row < 16; row++) {
        reinterpret_cast<Float8&>(even[row]) = widen<bfloat16, false>(warp.left[row]);
        reinterpret_cast<Float8&>(odd[row]) = widen<bfloat16, true>(warp.left[row]);
    }
    for (int pair = 0; pair < 8; pair++) {
        right[2 * pair] = widen<bfloat16, false>(warp.right[pair]);
        right[2 * pair + 1] = widen<bfloat16, true>(warp.right[pair]);
    }
    multiply_rows(warp.sums, even, odd, right, std::make_index_sequence<8>());
    multiply_rows(warp.sums + 8, even + 8, odd + 8, right, std::make_index_sequence<8>());
}

// Lane 4 g + t holds of A the pairs (row, columns) a0 = (g, 2t..2t+1), a1 = (g+8, 2t..), a2 = (g, 2t+8..),
// a3 = (g+8, 2t+8..); of B, whose rows are k, b0 = (2t..2t+1, g) and b1 = (2t+8.., g); of the sums d0, d1 =
// (g, 2t..2t+1) and d2, d3 = (g+8, 2t..2t+1). The results take the place of the sums: a lane brings new ones only after
// it has fetched its results, and no mma is computed before all lanes have brought theirs.
template <bool bfloat16>
__forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Location at) {
    Warp& warp = *current->warp;
    const int g = current->lane / 4, t = current->lane % 4;
    warp.left[g][t] = a[0];
    warp.left[g + 8][t] = a[1];
    warp.left[g][t + 4] = a[2];
    warp.left[g + 8][t + 4] = a[3];
    warp.right[t][g] = b[0];
    warp.right[t + 4][g] = b[1];
    warp.sums[g][2 * t] = d[0];
    warp.sums[g][2 * t + 1] = d[1];
    warp.sums[g + 8][2 * t] = d[2];
    warp.sums[g + 8][2 * t + 1] = d[3];
    meet(0xffffffffu, bfloat16 ? Wait::mma_bfloat16 : Wait::mma_half, at, compute_mma<bfloat16>);
    d[0] = warp.sums[g][2 * t];
    d[1] = warp.sums[g][2 * t + 1];
    d[2] = warp.sums[g + 8][2 * t];
    d[3] = warp.sums[g + 8][2 * t + 1];
}

// Lane i brings the address of row i % 8 of matrix i / 8; lane 4 g + t gets of every matrix the pair (g, 2t..2t+1),
// transposed (2t..2t+1, g).
template <int matrices, bool transposed>
__forceinline__ void ldmatrix(uint32_t (&r)[matrices], const void* row, Location at) {
    Warp& warp = *current->warp;
    const int lane = current->lane;
    if (lane < 8 * matrices && reinterpret_cast<uintptr_t>(row) % 16 != 0)
        fail("ldmatrix of a row at %p, which is no multiple of 16 (%s:%u)", row, at.file_name(),
             static_cast<unsigned>(at.line()));
    warp.operand[lane] = reinterpret_cast<uintptr_t>(row);
    meet(0xffffffffu, Wait::ldmatrix, at, [](Warp& warp, uint32_t lanes) {
        if (lanes != 0xffffffffu) fail("ldmatrix of a warp in which lanes are missing (there: %08x)", lanes);
        for (int matrix = 0; matrix < matrices; matrix++) {
            uint16_t values[8][8];
            for (int i = 0; i < 8; i++)
                memcpy(values[i], reinterpret_cast<const void*>(warp.operand[8 * matrix + i]), 16);
            for (int lane = 0; lane < 32; lane++) {
                const int g = lane / 4, t = lane % 4 * 2;
                const uint32_t low = transposed ? values[t][g] : values[g][t];
                const uint32_t high = transposed ? values[t + 1][g] : values[g][t + 1];
                warp.fragment[matrix][lane] = high << 16 | low;
            }
        }
    });
    for (int i = 0; i < matrices; i++) r[i] = warp.fragment[i][lane];
}

} // namespace emulation

__forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMULATED_HERE) {
    emulation::mma<false>(d, a, b, at);
}
__forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMULATED_HERE) {
    emulation::mma<true>(d, a, b, at);
}
__forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row, EMULATED_HERE) {
    emulation::ldmatrix<4, false>(r, shared_row, at);
}
__forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row, EMULATED_HERE) {
    emulation::ldmatrix<2, false>(r, shared_row, at);
}
__forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row, EMULATED_HERE) {
    emulation::ldmatrix<4, true>(r, shared_row, at);
}
__forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row, EMULATED_HERE) {
    emulation::ldmatrix<2, true>(r, shared_row, at);
}
