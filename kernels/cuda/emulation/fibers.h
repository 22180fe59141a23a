// The running block: its threads as fibers, which fiber runs next, and the end of threads.
// A launch lives on one OS thread from start to end, so everything here is thread_local and free of locks.
#pragma once

#include <source_location>

#include "language.h"

namespace emulation {

using Location = std::source_location;

constexpr unsigned max_threads = 1024;
constexpr unsigned max_warps = max_threads / 32;

// What a fiber waits for. Collectives of different kinds never meet.
enum class Wait : uint8_t {
    none, barrier, barrier_or, barrier_and, barrier_count, warp_barrier, shuffle, shuffle_up, shuffle_down, shuffle_xor,
    ballot, any, all, match_any, match_all, reduce, mma_half, mma_bfloat16, ldmatrix, preempted, finished
};
const char* wait_name(Wait wait);

struct Warp;
struct AsyncCopies;

struct alignas(64) Fiber {
    void* stack_pointer;
    Warp* warp;
    uint3 thread;
    uint16_t index;
    uint8_t lane;
    Wait wait;
    Location at;
    AsyncCopies* copies;
};

// What the last lane to arrive does for all that have.
using Compute = void (*)(Warp&, uint32_t lanes);

// A collective that some lanes of its mask have reached.
struct Collective {
    uint32_t mask, arrived;
    Wait kind;
    Location at;
    Compute compute;
};

struct Warp {
    uint32_t index;
    uint32_t ready;       // lanes that can go on, without the one that runs
    uint32_t exited;      // lanes that ended, and those the block does not have
    uint32_t at_barrier;  // lanes that wait for the block
    uint32_t open;        // collectives that are under way
    Collective collectives[32];
    // Operands are read and results written by the last lane to arrive. Two sets, because a lane may bring the next
    // operands before another has fetched its result.
    uint64_t operand[32], result[32];
    uint8_t source[32];
    // Of mma: rows of A in pairs of columns, pairs of rows of B, rows of the sums; of ldmatrix: what it gives.
    alignas(64) uint32_t left[16][8], right[8][8];
    alignas(64) float sums[16][8];
    uint32_t fragment[4][32];
};

struct Block {
    const char* kernel = "";
    uint3 grid, shape, index;
    uint32_t threads, warps;
    uint32_t alive;        // threads that have not ended
    uint32_t ready_warps;  // warps with ready lanes
    uint32_t arrived;      // threads at the barrier
    uint32_t votes;        // of those, with a true predicate
    uint32_t barrier_result;
    Wait barrier_kind;
    Location barrier_at;
    uint32_t order, random;
    uint32_t quiet_atomics;  // atomics since the last switch
    uint32_t idle_yields;    // since a thread last met others or ended
    unsigned char* shared;
    uint32_t shared_bytes;
    void* main_stack_pointer;
    Warp* warp;
    Fiber* fiber;
};

constinit inline thread_local Fiber* current = nullptr;
constinit inline thread_local Block* block = nullptr;

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void report_deadlock();

inline uint32_t next_random() {
    uint32_t x = block->random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return block->random = x;
}

// The first set bit at or after `start`, around the end.
inline uint32_t first_from(uint32_t bits, uint32_t start) {
    return (__builtin_ctz(bits >> start | bits << (-start & 31)) + start) & 31;
}

inline uint32_t choose(uint32_t bits) {
    if (block->order == 0) return __builtin_ctz(bits);
    if (block->order == 1) return 31 - __builtin_clz(bits);
    return first_from(bits, next_random() >> 13 & 31);
}

// Saves where this stack goes on and continues another. Inlined with an indirect jump instead of a call: returns would
// be predicted wrong, because the stack that goes on was left at another place than this one.
__forceinline__ void switch_stacks(void** save, void* load) {
    asm volatile(
        "leaq -128(%%rsp), %%rsp\n\t"  // the red zone
        "pushq %%rbp\n\t"
        "leaq 1f(%%rip), %%rax\n\t"
        "pushq %%rax\n\t"
        "movq %%rsp, (%0)\n\t"
        "movq %1, %%rsp\n\t"
        "popq %%rax\n\t"
        "jmp *%%rax\n"
        "1:\n\t"
        "popq %%rbp\n\t"
        "leaq 128(%%rsp), %%rsp"
        : "+D"(save), "+S"(load)
        :
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2",
          "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
#ifdef __AVX512F__
          "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27",
          "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7",
#endif
          "memory", "cc");
}

// Makes a ready fiber the current one.
inline Fiber* take(Warp& warp, uint32_t lane) {
    warp.ready &= ~(1u << lane);
    if (warp.ready == 0) block->ready_warps &= ~(1u << warp.index);
    block->quiet_atomics = 0;
    return current = &block->fiber[warp.index * 32 + lane];
}

inline void make_ready(Warp& warp, uint32_t lanes) {
    if (lanes == 0) return;
    warp.ready |= lanes;
    block->ready_warps |= 1u << warp.index;
}

// Chooses who goes on. A warp does while it can, so that it runs ahead of the others as far as barriers let it; random
// orders also leave it midway.
inline Fiber* take_next() {
    Warp* warp = current->warp;
    const bool leave = block->order >= 2 && (next_random() >> 20 & 7) == 0;
    if (warp->ready == 0 || (leave && block->ready_warps != 0)) {
        if (block->ready_warps == 0) report_deadlock();
        warp = &block->warp[choose(block->ready_warps)];
    }
    return take(*warp, choose(warp->ready));
}

// Lets every other ready fiber run before this one in time: the next lane of the warp, else the next warp.
inline void yield() {
    Fiber* self = current;
    Warp& warp = *self->warp;
    if (++block->idle_yields > 1u << 20) fail("threads spin for what no thread of the block will write");
    const uint32_t above = warp.ready & ~((2u << self->lane) - 1);
    self->wait = Wait::preempted;
    make_ready(warp, 1u << self->lane);
    Warp& next_warp = above != 0 ? warp : block->warp[first_from(block->ready_warps, (warp.index + 1) & 31)];
    Fiber* next = take(next_warp, __builtin_ctz(above != 0 ? above : next_warp.ready));
    if (next != self) switch_stacks(&self->stack_pointer, next->stack_pointer);
}

// Atomics and fences are where threads may meet: random orders leave a thread there, and every order does after a
// while, so that a thread which waits for another's flag does not wait forever.
inline void may_yield() {
    if (++block->quiet_atomics > 256 || (block->order >= 2 && (next_random() >> 20 & 15) == 0)) yield();
}

// Brings the current lane, whose operands are in the warp already, to a collective of the lanes of `mask`. Null if all
// of them that still run have come; else another fiber, now the current one, to switch to.
Fiber* arrive(uint32_t mask, Wait kind, Location at, Compute compute);
Fiber* arrive_at_barrier(Wait kind, bool predicate, Location at);

__forceinline__ void meet(uint32_t mask, Wait kind, Location at, Compute compute) {
    Fiber* self = current;
    Fiber* next = arrive(mask, kind, at, compute);
    if (next != nullptr) switch_stacks(&self->stack_pointer, next->stack_pointer);
}

__forceinline__ uint32_t meet_block(Wait kind, bool predicate, Location at) {
    Fiber* self = current;
    Fiber* next = arrive_at_barrier(kind, predicate, at);
    if (next != nullptr) switch_stacks(&self->stack_pointer, next->stack_pointer);
    return block->barrier_result;
}

} // namespace emulation

constexpr int warpSize = 32;
#define threadIdx (::emulation::current->thread)
#define blockIdx (::emulation::block->index)
#define blockDim (::emulation::block->shape)
#define gridDim (::emulation::block->grid)
