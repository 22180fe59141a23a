// Barriers, shuffles, votes, matches and reductions of warps and blocks.
#pragma once

#include <bit>
#include <cstring>
#include <type_traits>

#include "fibers.h"

#define EMULATED_HERE ::emulation::Location at = ::emulation::Location::current()

__forceinline__ void __syncthreads(EMULATED_HERE) { emulation::meet_block(emulation::Wait::barrier, false, at); }
__forceinline__ int __syncthreads_or(int predicate, EMULATED_HERE) {
    return static_cast<int>(emulation::meet_block(emulation::Wait::barrier_or, predicate != 0, at));
}
__forceinline__ int __syncthreads_and(int predicate, EMULATED_HERE) {
    return static_cast<int>(emulation::meet_block(emulation::Wait::barrier_and, predicate != 0, at));
}
__forceinline__ int __syncthreads_count(int predicate, EMULATED_HERE) {
    return static_cast<int>(emulation::meet_block(emulation::Wait::barrier_count, predicate != 0, at));
}
__forceinline__ void __syncwarp(unsigned mask = 0xffffffffu, EMULATED_HERE) {
    emulation::meet(mask, emulation::Wait::warp_barrier, at, [](emulation::Warp&, uint32_t) {});
}
__forceinline__ unsigned __activemask() { return ~emulation::current->warp->exited; }

namespace emulation {

// Runs `body(lane)` for every lane of the set.
template <typename Body>
inline void for_lanes(uint32_t lanes, Body body) {
    for (; lanes != 0; lanes &= lanes - 1) body(__builtin_ctz(lanes));
}

// A lane which reads from one that takes no part gets all bits set (NaN), since the card leaves it undefined.
inline void compute_shuffle(Warp& warp, uint32_t lanes) {
    if (lanes == 0xffffffffu) {
        for (int lane = 0; lane < 32; lane++) warp.result[lane] = warp.operand[warp.source[lane]];
        return;
    }
    for_lanes(lanes, [&](int lane) {
        const uint32_t source = warp.source[lane];
        warp.result[lane] = lanes >> source & 1 ? warp.operand[source] : ~0ull;
    });
}

template <typename T>
__forceinline__ T shuffle(uint32_t mask, T value, Wait kind, int lane_operand, int width, Location at) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    const int lane = current->lane;
    const int segment = lane & ~(width - 1);
    const int last = segment | (width - 1);
    const int operand = lane_operand & 31;
    int source = lane;
    switch (kind) {
    case Wait::shuffle: source = segment | (operand & (width - 1)); break;
    case Wait::shuffle_up: source = lane - operand < segment ? lane : lane - operand; break;
    case Wait::shuffle_down: source = lane + operand > last ? lane : lane + operand; break;
    default: source = (lane ^ operand) > last ? lane : lane ^ operand;
    }
    Warp& warp = *current->warp;
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    warp.operand[lane] = bits;
    warp.source[lane] = static_cast<uint8_t>(source);
    meet(mask, kind, at, compute_shuffle);
    memcpy(&value, &warp.result[lane], sizeof(T));
    return value;
}

// Brings one number and fetches one.
__forceinline__ uint64_t exchange(uint32_t mask, uint64_t operand, Wait kind, Location at, Compute compute) {
    Warp& warp = *current->warp;
    const int lane = current->lane;
    warp.operand[lane] = operand;
    meet(mask, kind, at, compute);
    return warp.result[lane];
}

inline uint32_t true_lanes(const Warp& warp, uint32_t lanes) {
    uint32_t result = 0;
    for_lanes(lanes, [&](int lane) { result |= static_cast<uint32_t>(warp.operand[lane] != 0) << lane; });
    return result;
}
inline void give_all(Warp& warp, uint32_t lanes, uint64_t value) {
    for_lanes(lanes, [&](int lane) { warp.result[lane] = value; });
}

template <typename T, typename Combine>
__forceinline__ T reduce(uint32_t mask, T value, Location at) {
    return static_cast<T>(exchange(mask, static_cast<uint32_t>(value), Wait::reduce, at,
                                   [](Warp& warp, uint32_t lanes) {
        T result = static_cast<T>(warp.operand[__builtin_ctz(lanes)]);
        for_lanes(lanes & (lanes - 1), [&](int i) { result = Combine()(result, static_cast<T>(warp.operand[i])); });
        give_all(warp, lanes, static_cast<uint32_t>(result));
    }));
}

struct Add { template <typename T> T operator()(T a, T b) { return static_cast<T>(static_cast<unsigned>(a) + b); } };
struct Min { template <typename T> T operator()(T a, T b) { return a < b ? a : b; } };
struct Max { template <typename T> T operator()(T a, T b) { return a > b ? a : b; } };
struct And { template <typename T> T operator()(T a, T b) { return a & b; } };
struct Or { template <typename T> T operator()(T a, T b) { return a | b; } };
struct Xor { template <typename T> T operator()(T a, T b) { return a ^ b; } };

} // namespace emulation

template <typename T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATED_HERE) {
    return emulation::shuffle(mask, value, emulation::Wait::shuffle, source, width, at);
}
template <typename T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_HERE) {
    return emulation::shuffle(mask, value, emulation::Wait::shuffle_up, static_cast<int>(delta), width, at);
}
template <typename T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_HERE) {
    return emulation::shuffle(mask, value, emulation::Wait::shuffle_down, static_cast<int>(delta), width, at);
}
template <typename T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, EMULATED_HERE) {
    return emulation::shuffle(mask, value, emulation::Wait::shuffle_xor, lane_mask, width, at);
}

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate, EMULATED_HERE) {
    using namespace emulation;
    return static_cast<unsigned>(exchange(mask, predicate != 0, Wait::ballot, at, [](Warp& warp, uint32_t lanes) {
        give_all(warp, lanes, true_lanes(warp, lanes));
    }));
}
__forceinline__ int __any_sync(unsigned mask, int predicate, EMULATED_HERE) {
    using namespace emulation;
    return static_cast<int>(exchange(mask, predicate != 0, Wait::any, at, [](Warp& warp, uint32_t lanes) {
        give_all(warp, lanes, true_lanes(warp, lanes) != 0);
    }));
}
__forceinline__ int __all_sync(unsigned mask, int predicate, EMULATED_HERE) {
    using namespace emulation;
    return static_cast<int>(exchange(mask, predicate != 0, Wait::all, at, [](Warp& warp, uint32_t lanes) {
        give_all(warp, lanes, true_lanes(warp, lanes) == lanes);
    }));
}

namespace emulation {
template <typename T>
uint64_t value_bits(T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    return bits;
}
} // namespace emulation

template <typename T>
__forceinline__ unsigned __match_any_sync(unsigned mask, T value, EMULATED_HERE) {
    using namespace emulation;
    return static_cast<unsigned>(exchange(mask, value_bits(value), Wait::match_any, at, [](Warp& warp, uint32_t lanes) {
        for_lanes(lanes, [&](int lane) {
            uint32_t equal = 0;
            for_lanes(lanes, [&](int other) {
                equal |= static_cast<uint32_t>(warp.operand[other] == warp.operand[lane]) << other;
            });
            warp.result[lane] = equal;
        });
    }));
}
template <typename T>
__forceinline__ unsigned __match_all_sync(unsigned mask, T value, int* predicate, EMULATED_HERE) {
    using namespace emulation;
    const auto equal = exchange(mask, value_bits(value), Wait::match_all, at, [](Warp& warp, uint32_t lanes) {
        bool same = true;
        for_lanes(lanes, [&](int lane) { same &= warp.operand[lane] == warp.operand[__builtin_ctz(lanes)]; });
        give_all(warp, lanes, same ? lanes : 0);
    });
    *predicate = equal != 0;
    return static_cast<unsigned>(equal);
}

#define EMULATED_REDUCE(name, type, combine)                                                                         \
    __forceinline__ type name(unsigned mask, type value, EMULATED_HERE) {                                            \
        return emulation::reduce<type, emulation::combine>(mask, value, at);                                         \
    }
EMULATED_REDUCE(__reduce_add_sync, unsigned, Add)
EMULATED_REDUCE(__reduce_add_sync, int, Add)
EMULATED_REDUCE(__reduce_min_sync, unsigned, Min)
EMULATED_REDUCE(__reduce_min_sync, int, Min)
EMULATED_REDUCE(__reduce_max_sync, unsigned, Max)
EMULATED_REDUCE(__reduce_max_sync, int, Max)
EMULATED_REDUCE(__reduce_and_sync, unsigned, And)
EMULATED_REDUCE(__reduce_or_sync, unsigned, Or)
EMULATED_REDUCE(__reduce_xor_sync, unsigned, Xor)
#undef EMULATED_REDUCE
