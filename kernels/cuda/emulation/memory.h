// Memory: dynamic shared memory, asynchronous copies, atomics, fences, cached loads and stores.
#pragma once

#include <cstring>
#include <type_traits>

#include "fibers.h"

#define DYNAMIC_SHARED(name) unsigned char* const name = ::emulation::block->shared

namespace emulation {

// A thread's copies under way, in the order of their issue. `group` counts the commits before the copy.
struct AsyncCopies {
    static constexpr uint32_t capacity = 256;
    struct Copy {
        void* shared;
        const void* global;  // null: zeros
        uint32_t group;
    };
    uint32_t first, end, committed;
    Copy copy[capacity];
};

inline void start_copy(void* shared, const void* global) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
        fail("cp_async_16 of addresses that are no multiples of 16 (shared %p, global %p)", shared, global);
    AsyncCopies& copies = *current->copies;
    if (copies.end - copies.first == AsyncCopies::capacity)
        fail("more than %u cp_async_16 of one thread without cp_async_wait", AsyncCopies::capacity);
    copies.copy[copies.end++ % AsyncCopies::capacity] = {shared, global, copies.committed};
}

// Copies happen at the latest moment the card allows, so that a missing wait shows.
inline void finish_copies(uint32_t pending_groups, bool uncommitted) {
    AsyncCopies& copies = *current->copies;
    for (; copies.first != copies.end; copies.first++) {
        const AsyncCopies::Copy& copy = copies.copy[copies.first % AsyncCopies::capacity];
        if (!uncommitted && copy.group + pending_groups >= copies.committed) break;
        if (copy.global != nullptr) memcpy(copy.shared, copy.global, 16);
        else memset(copy.shared, 0, 16);
    }
}

} // namespace emulation

inline void cp_async_16(void* shared, const void* global) { emulation::start_copy(shared, global); }
inline void cp_async_16_zfill(void* shared, const void* global, bool valid) {
    emulation::start_copy(shared, valid ? global : nullptr);
}
inline void cp_async_commit() { emulation::current->copies->committed++; }
template <int pending_groups> void cp_async_wait() { emulation::finish_copies(pending_groups, false); }
inline void cp_async_wait_all() { emulation::finish_copies(0, true); }

inline void __threadfence() { emulation::may_yield(); }
inline void __threadfence_block() { emulation::may_yield(); }
inline void __threadfence_system() { emulation::may_yield(); }
inline void __nanosleep(unsigned) { emulation::yield(); }
inline void grid_dependency_wait() {}
inline void grid_dependency_launch() {}
#define __trap() ::emulation::fail("__trap() at %s:%d", __FILE__, __LINE__)

template <typename T> T __ldg(const T* address) { return *address; }
template <typename T> T __ldca(const T* address) { return *address; }
template <typename T> T __ldcg(const T* address) { return *address; }
template <typename T> T __ldcs(const T* address) { return *address; }
template <typename T> T __ldlu(const T* address) { return *address; }
template <typename T> T __ldcv(const T* address) { return *address; }
template <typename T> void __stwb(T* address, std::type_identity_t<T> value) { *address = value; }
template <typename T> void __stcg(T* address, std::type_identity_t<T> value) { *address = value; }
template <typename T> void __stcs(T* address, std::type_identity_t<T> value) { *address = value; }
template <typename T> void __stwt(T* address, std::type_identity_t<T> value) { *address = value; }

namespace emulation {

// Atomic between OS threads too: launches on different threads may share memory.
template <typename T, typename Change>
T change_atomically(T* address, Change change) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    may_yield();
    T before;
    __atomic_load(address, &before, __ATOMIC_RELAXED);
    for (;;) {
        T after = change(before);
        const bool done = __atomic_compare_exchange(address, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
        if (done) return before;
    }
}

template <typename T>
concept AtomicInteger = std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);
template <typename T>
concept AtomicNumber = AtomicInteger<T> || std::is_same_v<T, float> || std::is_same_v<T, double>;

} // namespace emulation

template <emulation::AtomicNumber T> T atomicAdd(T* address, std::type_identity_t<T> value) {
    if constexpr (std::is_integral_v<T>) {
        emulation::may_yield();
        return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
    } else {
        return emulation::change_atomically(address, [=](T old) { return old + value; });
    }
}
template <emulation::AtomicInteger T> T atomicSub(T* address, std::type_identity_t<T> value) {
    emulation::may_yield();
    return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED);
}
template <emulation::AtomicInteger T> T atomicMax(T* address, std::type_identity_t<T> value) {
    return emulation::change_atomically(address, [=](T old) { return old > value ? old : value; });
}
template <emulation::AtomicInteger T> T atomicMin(T* address, std::type_identity_t<T> value) {
    return emulation::change_atomically(address, [=](T old) { return old < value ? old : value; });
}
template <emulation::AtomicInteger T> T atomicAnd(T* address, std::type_identity_t<T> value) {
    return emulation::change_atomically(address, [=](T old) { return old & value; });
}
template <emulation::AtomicInteger T> T atomicOr(T* address, std::type_identity_t<T> value) {
    return emulation::change_atomically(address, [=](T old) { return old | value; });
}
template <emulation::AtomicInteger T> T atomicXor(T* address, std::type_identity_t<T> value) {
    return emulation::change_atomically(address, [=](T old) { return old ^ value; });
}
template <emulation::AtomicNumber T> T atomicExch(T* address, std::type_identity_t<T> value) {
    return emulation::change_atomically(address, [=](T) { return value; });
}
template <emulation::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    return emulation::change_atomically(address, [=](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    return emulation::change_atomically(address, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
