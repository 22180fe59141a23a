// Launches: memory of stacks and shared memory, the loop over blocks. Included by one translation unit of a program.
#pragma once

#include <numeric>
#include <sys/mman.h>

#include "emulation.h"
#include "meeting.h"

namespace emulation {

constexpr size_t stack_bytes = 128 << 10;
constexpr size_t page_bytes = 4096;
constexpr unsigned max_shared_bytes = 227 << 10;
constexpr size_t guard_bytes = 1024;
constexpr uint16_t guard_value = 0xfff1;  // NaN as half, bfloat16 and, doubled, as float

inline void* map_memory(size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for %zu bytes", bytes);
    return memory;
}

// What an OS thread keeps between launches. Pages are touched when first used.
struct Machine {
    Block block{};
    Warp* warp = static_cast<Warp*>(map_memory(sizeof(Warp) * max_warps));
    Fiber* fiber = static_cast<Fiber*>(map_memory(sizeof(Fiber) * max_threads));
    AsyncCopies* copies = static_cast<AsyncCopies*>(map_memory(sizeof(AsyncCopies) * max_threads));
    unsigned char* shared = static_cast<unsigned char*>(map_memory(max_shared_bytes + 4 * guard_bytes));
    unsigned char* stacks = nullptr;
    unsigned stack_count = 0;

    ~Machine() {
        munmap(warp, sizeof(Warp) * max_warps);
        munmap(fiber, sizeof(Fiber) * max_threads);
        munmap(copies, sizeof(AsyncCopies) * max_threads);
        munmap(shared, max_shared_bytes + 4 * guard_bytes);
        if (stacks != nullptr) munmap(stacks, stack_bytes * max_threads);
    }

    // The lowest page of every stack is a guard: too deep a kernel ends in SIGSEGV at the place of its doing.
    void need_stacks(unsigned count) {
        if (stacks == nullptr) stacks = static_cast<unsigned char*>(map_memory(stack_bytes * max_threads));
        for (; stack_count < count; stack_count++)
            if (mprotect(stacks + stack_bytes * stack_count, page_bytes, PROT_NONE) != 0) fail("mprotect of a stack");
    }
};

// 16 bytes is all the alignment that the card promises to shared memory.
inline unsigned char* shared_start(Machine& machine) { return machine.shared + guard_bytes + 16; }

inline void fill_guard(unsigned char* guard) {
    for (size_t i = 0; i < guard_bytes; i += 2) memcpy(guard + i, &guard_value, 2);
}
inline bool guard_is_whole(const unsigned char* guard) {
    return memcmp(guard, &guard_value, 2) == 0 && memcmp(guard, guard + 2, guard_bytes - 2) == 0;
}

constinit thread_local const Kernel* running_kernel = nullptr;
constinit thread_local void** running_params = nullptr;

[[noreturn]] void fiber_main() {
    running_kernel->call(running_params);
    end_thread();
}

// A stack as the switch leaves it, which goes on at the start of a function that returns nowhere. Starts are spread
// over cache sets, since stacks lie a power of two apart.
inline void* new_stack(Machine& machine, uint32_t index) {
    void** top = reinterpret_cast<void**>(machine.stacks + stack_bytes * (index + 1) - 64 - index * 17 % 61 * 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(fiber_main);
    return top;
}

inline void prepare_block(Machine& machine) {
    Block& block = machine.block;
    for (uint32_t i = 0; i < block.warps; i++) {
        Warp& warp = machine.warp[i];
        const uint32_t lanes = block.threads - 32 * i;
        warp.index = i;
        warp.ready = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        warp.exited = ~warp.ready;
        warp.at_barrier = warp.open = 0;
    }
    block.ready_warps = block.warps == 32 ? 0xffffffffu : (1u << block.warps) - 1;
    block.alive = block.threads;
    block.arrived = block.votes = block.quiet_atomics = block.idle_yields = 0;
    uint3 thread{0, 0, 0};
    for (uint32_t i = 0; i < block.threads; i++) {
        Fiber& fiber = machine.fiber[i];
        fiber.stack_pointer = new_stack(machine, i);
        fiber.warp = &machine.warp[i / 32];
        fiber.thread = thread;
        fiber.index = static_cast<uint16_t>(i);
        fiber.lane = i % 32;
        fiber.wait = Wait::preempted;
        fiber.copies = &machine.copies[i];
        fiber.copies->first = fiber.copies->end = fiber.copies->committed = 0;
        if (++thread.x == block.shape.x) {
            thread.x = 0;
            if (++thread.y == block.shape.y) thread.y = 0, thread.z++;
        }
    }
    memset(block.shared, 0xff, block.shared_bytes);
}

inline void run_block(Machine& machine) {
    prepare_block(machine);
    Warp& warp = machine.warp[choose(machine.block.ready_warps)];
    switch_stacks(&machine.block.main_stack_pointer, take(warp, choose(warp.ready))->stack_pointer);
    current = nullptr;
    if (!guard_is_whole(machine.block.shared - guard_bytes)) fail("writes before the start of dynamic shared memory");
    if (!guard_is_whole(machine.block.shared + machine.block.shared_bytes))
        fail("writes behind the end of dynamic shared memory (%u bytes)", machine.block.shared_bytes);
}

inline const Kernel* find_kernel(const char* name) {
    for (const Kernel* kernel = Kernel::first; kernel != nullptr; kernel = kernel->next)
        if (strcmp(kernel->name, name) == 0) return kernel;
    return nullptr;
}

} // namespace emulation

// Runs a kernel to its end. 0: done; 1: no such kernel; 2: sizes that no card takes. `order` is the one in which blocks
// and threads run: 0 ascending, 1 descending, else random by this seed.
extern "C" int steppe_emulated_launch(const char* name, const unsigned grid[3], const unsigned block[3],
                                      unsigned shared_bytes, void** params, unsigned order) {
    using namespace emulation;
    const Kernel* kernel = find_kernel(name);
    if (kernel == nullptr) return 1;
    const uint64_t threads = static_cast<uint64_t>(block[0]) * block[1] * block[2];
    const uint64_t blocks = static_cast<uint64_t>(grid[0]) * grid[1] * grid[2];
    if (threads == 0 || threads > max_threads || block[0] > 1024 || block[1] > 1024 || block[2] > 64) return 2;
    if (blocks == 0 || grid[0] > 0x7fffffffu || grid[1] > 0xffff || grid[2] > 0xffff) return 2;
    if (shared_bytes > max_shared_bytes) return 2;

    static thread_local Machine machine;
    machine.need_stacks(static_cast<unsigned>(threads));
    Block& state = machine.block;
    state.kernel = name;
    state.grid = {grid[0], grid[1], grid[2]};
    state.shape = {block[0], block[1], block[2]};
    state.threads = static_cast<uint32_t>(threads);
    state.warps = (state.threads + 31) / 32;
    state.order = order;
    state.random = order * 2654435761u | 1;
    state.shared = shared_start(machine);
    state.shared_bytes = shared_bytes;
    state.warp = machine.warp;
    state.fiber = machine.fiber;
    fill_guard(state.shared - guard_bytes);
    fill_guard(state.shared + shared_bytes);
    emulation::block = &state;
    running_kernel = kernel;
    running_params = params;

    // Random orders visit the blocks in steps that have no divisor in common with their count.
    uint64_t step = order == 1 ? blocks - 1 : 1, at = order == 1 ? blocks - 1 : 0;
    if (order >= 2 && blocks > 1) {
        for (step = next_random() % blocks; std::gcd(step, blocks) != 1;) step = next_random() % blocks;
        at = next_random() % blocks;
    }
    for (uint64_t i = 0; i < blocks; i++, at = (at + step) % blocks) {
        state.index.x = static_cast<unsigned>(at % grid[0]);
        state.index.y = static_cast<unsigned>(at / grid[0] % grid[1]);
        state.index.z = static_cast<unsigned>(at / grid[0] / grid[1]);
        run_block(machine);
    }
    emulation::block = nullptr;
    return 0;
}
