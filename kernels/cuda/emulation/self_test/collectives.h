// Shuffles, votes, barriers, orders, and their misuse.
#pragma once

extern "C" __global__ void shuffle_kernel(float* floats, unsigned long long* longs, int* narrow, __half2* halves) {
    const int lane = threadIdx.x;
    floats[lane] = __shfl_down_sync(0xffffffffu, static_cast<float>(lane), 3);
    floats[32 + lane] = __shfl_up_sync(0xffffffffu, static_cast<float>(lane), 5);
    floats[64 + lane] = __shfl_xor_sync(0xffffffffu, static_cast<float>(lane), 9);
    longs[lane] = __shfl_sync(0xffffffffu, 0x100000000ull * lane + lane, 31 - lane);
    narrow[lane] = __shfl_down_sync(0xffffffffu, lane, 2, 8);
    narrow[32 + lane] = __shfl_up_sync(0xffffffffu, lane, 2, 8);
    narrow[64 + lane] = __shfl_sync(0xffffffffu, lane, 9, 8);
    narrow[96 + lane] = __shfl_xor_sync(0xffffffffu, lane, 16, 16);
    halves[lane] = __shfl_xor_sync(0xffffffffu, __floats2half2_rn(lane, -lane), 1);
    // Halves of a warp that go different ways.
    if (lane < 16) narrow[128 + lane] = __shfl_xor_sync(0x0000ffffu, lane, 1);
    else narrow[128 + lane] = __shfl_xor_sync(0xffff0000u, lane, 2);
    // Lanes that end take no part any more.
    if (lane >= 24) return;
    float sum = 1.0f;
    for (int i = 16; i > 0; i /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, sum, i);
        if ((lane ^ i) < 24) sum += other;
    }
    floats[96 + lane] = sum;
}
EXPORT_KERNEL(shuffle_kernel)

static void test_shuffles() {
    for (unsigned order = 0; order < 12; order++) {
        float floats[128] = {};
        unsigned long long longs[32];
        int narrow[160];
        __half2 halves[32];
        CHECK(launch("shuffle_kernel", {1, 32, 0}, order, +floats, +longs, +narrow, +halves) == 0);
        for (int lane = 0; lane < 32; lane++) {
            CHECK(floats[lane] == (lane + 3 < 32 ? lane + 3 : lane));
            CHECK(floats[32 + lane] == (lane >= 5 ? lane - 5 : lane));
            CHECK(floats[64 + lane] == (lane ^ 9));
            CHECK(longs[lane] == 0x100000001ull * (31 - lane));
            CHECK(narrow[lane] == (lane % 8 < 6 ? lane + 2 : lane));
            CHECK(narrow[32 + lane] == (lane % 8 >= 2 ? lane - 2 : lane));
            CHECK(narrow[64 + lane] == lane / 8 * 8 + 1);
            CHECK(narrow[96 + lane] == (lane < 16 ? lane : lane - 16));
            CHECK(__low2float(halves[lane]) == (lane ^ 1) && __high2float(halves[lane]) == -(lane ^ 1));
            CHECK(narrow[128 + lane] == (lane < 16 ? lane ^ 1 : lane ^ 2));
        }
        CHECK(floats[96] == 24.0f);
    }
}

extern "C" __global__ void vote_kernel(unsigned* out, int* sums) {
    const unsigned lane = threadIdx.x, all = 0xffffffffu;
    out[lane] = __ballot_sync(all, lane % 3 == 0);
    out[32 + lane] = __any_sync(all, lane == 7) + 2 * __any_sync(all, 0) + 4 * __all_sync(all, lane < 32) +
                     8 * __all_sync(all, lane < 31);
    out[64 + lane] = __match_any_sync(all, lane / 5);
    out[96 + lane] = __match_any_sync(all, static_cast<unsigned long long>(lane % 2) << 40);
    int same = 0;
    out[128 + lane] = __match_all_sync(all, 5, &same) + same;
    sums[lane] = __reduce_add_sync(all, -static_cast<int>(lane));
    sums[32 + lane] = __reduce_min_sync(all, static_cast<int>(lane) - 9);
    sums[64 + lane] = static_cast<int>(__reduce_max_sync(all, lane * 3));
    sums[96 + lane] = static_cast<int>(__reduce_min_sync(all, -1 - lane));
    sums[128 + lane] = static_cast<int>(__reduce_or_sync(all, 1u << lane / 2));
    if (lane % 2) out[160 + lane] = __ballot_sync(0xaaaaaaaau, lane > 16) + __reduce_add_sync(0xaaaaaaaau, 1u);
}
EXPORT_KERNEL(vote_kernel)

static void test_votes() {
    for (unsigned order = 0; order < 6; order++) {
        unsigned out[192];
        int sums[160];
        CHECK(launch("vote_kernel", {1, 32, 0}, order, +out, +sums) == 0);
        for (unsigned lane = 0; lane < 32; lane++) {
            CHECK(out[lane] == 0x49249249u);
            CHECK(out[32 + lane] == 5);
            CHECK(out[64 + lane] == (lane < 30 ? 31u << lane / 5 * 5 : 3u << 30));
            CHECK(out[96 + lane] == (lane % 2 ? 0xaaaaaaaau : 0x55555555u));
            CHECK(out[128 + lane] == 0);
            CHECK(sums[lane] == -496);
            CHECK(sums[32 + lane] == -9);
            CHECK(sums[64 + lane] == 93);
            CHECK(sums[96 + lane] == -32);
            CHECK(sums[128 + lane] == 0xffff);
            if (lane % 2) CHECK(out[160 + lane] == 0xaaaa0000u + 16);
        }
    }
}

// A sum over the block by halving, of a block that has no multiple of 32 threads; the last thread ends at once.
extern "C" __global__ void barrier_kernel(int* out) {
    __shared__ int values[512];
    const unsigned i = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned count = blockDim.x * blockDim.y * blockDim.z;
    for (unsigned j = i; j < 512; j += count - 1) values[j] = j + 1;
    if (i == count - 1) return;
    __syncthreads();
    for (unsigned half = 256; half > 0; half /= 2) {
        for (unsigned j = i; j < half; j += count - 1) values[j] += values[j + half];
        __syncthreads();
    }
    const int trues = __syncthreads_count(i % 3 == 0);
    const int some = __syncthreads_or(i == 5), every = __syncthreads_and(i != 5);
    if (i == 0) out[blockIdx.x + gridDim.x * blockIdx.y] = values[0] + trues * 1000000 + some * 7 + every * 11;
}
EXPORT_KERNEL(barrier_kernel)

static void test_barriers() {
    for (unsigned order = 0; order < 12; order++) {
        int out[6] = {};
        const unsigned grid[3] = {3, 2, 1}, block[3] = {5, 7, 3};
        int* address = out;
        void* params[] = {&address};
        CHECK(steppe_emulated_launch("barrier_kernel", grid, block, 0, params, order) == 0);
        for (int value : out) CHECK(value == 512 * 513 / 2 + 35 * 1000000 + 7);
    }
    CHECK(launch("no_kernel", {1, 32, 0}, 0) == 1);
    CHECK(launch("barrier_kernel", {1, 1025, 0}, 0) == 2);
    CHECK(launch("barrier_kernel", {0, 32, 0}, 0) == 2);
    CHECK(launch("barrier_kernel", {1, 32, 228 << 10}, 0) == 2);
}

// Every thread shows its neighbour's number, without the barrier that it needs.
extern "C" __global__ void race_kernel(int* out, bool barrier) {
    __shared__ int values[64];
    values[threadIdx.x] = -1;
    __syncthreads();
    values[threadIdx.x] = static_cast<int>(threadIdx.x);
    if (barrier) __syncthreads();
    out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}
EXPORT_KERNEL(race_kernel)

static void test_orders() {
    for (bool barrier : {true, false}) {
        int out[20][64];
        int different = 0;
        for (unsigned order = 0; order < 20; order++) {
            CHECK(launch("race_kernel", {1, 64, 0}, order, +out[order], barrier) == 0);
            different += memcmp(out[0], out[order], sizeof out[0]) != 0;
        }
        CHECK(barrier ? different == 0 : different == 19);
    }
}

extern "C" __global__ void misuse_kernel(int what) {
    const unsigned i = threadIdx.x;
    switch (what) {
    case 0:
        if (i < 40) __syncthreads();
        else __syncwarp(0xffffffffu);
        break;
    case 1: i < 32 ? __shfl_sync(0xffffffffu, i, 0) : 0; __syncthreads_or(i == 0 ? __ballot_sync(3, 1) : 0); break;
    case 2: i == 3 ? __any_sync(0xffffffffu, 1) : __all_sync(0xffffffffu, 1); break;
    case 3: __shfl_sync(0xfffffffeu, i, 0); break;
    case 4:
        if (i % 2) __syncthreads();
        else __syncthreads();
        break;
    case 5: {
        if (i == 9) return;
        float d[4] = {};
        const uint32_t a[4] = {}, b[2] = {};
        mma_m16n8k16(d, a, b);
        break;
    }
    case 6: __trap();
    case 7:
        if (i == 0) __syncthreads_or(1);
        else __syncthreads_and(1);
        break;
    case 8: {
        __shared__ int flag;
        flag = 0;
        while (atomicAdd(&flag, 0) == 0) {}
        break;
    }
    }
}
EXPORT_KERNEL(misuse_kernel)

static void test_collective_misuse() {
    const Shape shape{1, 64, 0};
    const std::string divergent = misuse("misuse_kernel", shape, 0);
    CHECK(contains(divergent, "kernel misuse_kernel, block (0, 0, 0)"));
    CHECK(contains(divergent, "threads wait forever"));
    CHECK(contains(divergent, "__syncthreads at ") && contains(divergent, ": threads 0-39\n"));
    CHECK(contains(divergent, "__syncwarp at ") && contains(divergent, ": threads 40-63\n"));
    CHECK(contains(misuse("misuse_kernel", shape, 1), "__ballot_sync at "));
    CHECK(contains(misuse("misuse_kernel", shape, 2), " meets __all_sync at "));
    CHECK(contains(misuse("misuse_kernel", shape, 3), "lacks the calling lane"));
    CHECK(contains(misuse("misuse_kernel", shape, 4), "while others wait for __syncthreads"));
    CHECK(contains(misuse("misuse_kernel", shape, 5), "lanes are missing"));
    CHECK(contains(misuse("misuse_kernel", shape, 6), "__trap()"));
    CHECK(contains(misuse("misuse_kernel", shape, 7), "while others wait for __syncthreads_or"));
    CHECK(contains(misuse("misuse_kernel", shape, 8), "threads spin"));
    CHECK(misuse("misuse_kernel", shape, 99).empty());
}
