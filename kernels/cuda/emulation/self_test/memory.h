// Dynamic shared memory, asynchronous copies, atomics, launches on several OS threads.
#pragma once

extern "C" __global__ void shared_kernel(unsigned char* out, int size, int written) {
    DYNAMIC_SHARED(bytes);
    if (threadIdx.x == 0) {
        for (int i = 0; i < size; i++) out[i] = bytes[i];
        bytes[written] = 1;
    }
}
EXPORT_KERNEL(shared_kernel)

static void test_shared_memory() {
    unsigned char out[100];
    CHECK(launch("shared_kernel", {3, 32, 100}, 0, +out, 100, 99) == 0);
    for (unsigned char byte : out) CHECK(byte == 0xff);
    CHECK(contains(misuse("shared_kernel", {1, 32, 100}, +out, 100, 100), "behind the end of dynamic shared memory"));
    CHECK(contains(misuse("shared_kernel", {1, 32, 100}, +out, 100, -1), "before the start of dynamic shared memory"));
    std::vector<unsigned char> large(227 << 10);
    CHECK(launch("shared_kernel", {1, 32, 227 << 10}, 1, large.data(), 227 << 10, 0) == 0);
}

// Thread i copies 16 bytes in each of three groups and shows what there is after a wait for all but `pending` groups.
template <int pending>
__device__ void copy_and_show(const uint4* from, uint4* out) {
    DYNAMIC_SHARED(bytes);
    uint4* shared = reinterpret_cast<uint4*>(bytes);
    const unsigned i = threadIdx.x, count = blockDim.x;
    for (unsigned group = 0; group < 3; group++) {
        cp_async_16_zfill(&shared[group * count + i], &from[group * count + i], group != 1);
        cp_async_commit();
    }
    if (pending < 3) cp_async_wait<pending>();
    __syncthreads();
    for (unsigned group = 0; group < 3; group++)
        out[group * count + i] = shared[group * count + (i + 1) % count];
}
extern "C" __global__ void copy_kernel(const uint4* from, uint4* out, int pending) {
    switch (pending) {
    case 0: copy_and_show<0>(from, out); break;
    case 1: copy_and_show<1>(from, out); break;
    case 2: copy_and_show<2>(from, out); break;
    default: copy_and_show<3>(from, out); break;
    }
}
EXPORT_KERNEL(copy_kernel)
extern "C" __global__ void many_copies_kernel(const uint4* from, int count, int offset) {
    DYNAMIC_SHARED(bytes);
    for (int i = 0; i < count; i++) cp_async_16(bytes + offset, from);
    cp_async_wait_all();
}
EXPORT_KERNEL(many_copies_kernel)

static void test_async_copies() {
    uint4 from[96], out[96];
    for (unsigned i = 0; i < 96; i++) from[i] = {i, i + 1, i + 2, i + 3};
    for (int pending = 0; pending <= 3; pending++) {
        for (unsigned order = 0; order < 4; order++) {
            CHECK(launch("copy_kernel", {1, 32, 96 * 16}, order, static_cast<const uint4*>(from), +out, pending) == 0);
            for (int group = 0; group < 3; group++) {
                for (unsigned i = 0; i < 32; i++) {
                    const unsigned expected = group + pending >= 3 ? 0xffffffffu
                                              : group == 1         ? 0
                                                                   : group * 32 + (i + 1) % 32;
                    CHECK(out[group * 32 + i].x == expected);
                }
            }
        }
    }
    const uint4* start = from;
    CHECK(launch("many_copies_kernel", {1, 32, 16}, 0, start, 256, 0) == 0);
    CHECK(contains(misuse("many_copies_kernel", {1, 32, 16}, start, 257, 0), "without cp_async_wait"));
    CHECK(contains(misuse("many_copies_kernel", {1, 32, 32}, start, 1, 8), "no multiples of 16"));
}

struct Counters {
    int added, highest, lowest;
    unsigned bits, kept, exchanged, locked, lock, turns;
    unsigned long long wide;
    float sum;
};

extern "C" __global__ void atomic_kernel(Counters* counters) {
    const int i = static_cast<int>(threadIdx.x + blockIdx.x * blockDim.x);
    atomicAdd(&counters->added, i);
    atomicMax(&counters->highest, i);
    atomicMin(&counters->lowest, -i);
    atomicOr(&counters->bits, 1u << i % 32);
    atomicAnd(&counters->kept, ~(1u << i % 8));
    atomicExch(&counters->exchanged, 5u);
    atomicAdd(&counters->wide, 1ull << 32);
    atomicAdd(&counters->sum, 0.5f);
    atomicInc(&counters->turns, 99);
    // A lock that threads of one block spin for.
    while (atomicCAS(&counters->lock, 0u, 1u) != 0) {}
    const unsigned before = counters->locked;
    __threadfence();
    counters->locked = before + 1;
    atomicExch(&counters->lock, 0u);
}
EXPORT_KERNEL(atomic_kernel)

static void test_atomics() {
    for (unsigned order = 0; order < 8; order++) {
        Counters counters{0, 0, 0, 0, 0xffffffffu, 0, 0, 0, 0, 0, 0.0f};
        CHECK(launch("atomic_kernel", {4, 100, 0}, order, &counters) == 0);
        CHECK(counters.added == 399 * 400 / 2 && counters.highest == 399 && counters.lowest == -399);
        CHECK(counters.bits == 0xffffffffu && counters.kept == 0xffffff00u && counters.exchanged == 5);
        CHECK(counters.wide == 400ull << 32 && counters.sum == 200.0f && counters.turns == 0);
        CHECK(counters.locked == 400 && counters.lock == 0);
    }
}

static void test_threads() {
    std::vector<std::thread> threads;
    int sums[4] = {};
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([i, &sums] {
            for (unsigned order = 0; order < 20; order++) {
                int out[6] = {};
                const unsigned grid[3] = {3, 2, 1}, block[3] = {5, 7, 3};
                int* address = out;
                void* params[] = {&address};
                steppe_emulated_launch("barrier_kernel", grid, block, 0, params, order + i);
                for (int value : out) sums[i] += value == 512 * 513 / 2 + 35 * 1000000 + 7;
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (int sum : sums) CHECK(sum == 120);
}
