// mma against a plain triple loop, with fragments filled by the layout of the PTX ISA, and ldmatrix.
#pragma once

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", element i of a lane:
// A row = i < 2 || 4 <= i < 6 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1) + (i >= 4 ? 8 : 0);
// B row = lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0), column = lane / 4;
// C row = i < 2 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1).
template <typename T, bool bfloat16>
__device__ void multiply(const T* a, const T* b, float* c) {
    const int lane = threadIdx.x % 32, group = lane / 4, in_group = lane % 4;
    uint32_t left[4] = {}, right[2] = {};
    float sum[4];
    for (int i = 0; i < 8; i++) {
        const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        left[i / 2] |= static_cast<uint32_t>(a[row * 16 + column].bits) << 16 * (i % 2);
    }
    for (int i = 0; i < 4; i++) {
        const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
        right[i / 2] |= static_cast<uint32_t>(b[row * 8 + group].bits) << 16 * (i % 2);
        sum[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
    }
    if constexpr (bfloat16) mma_m16n8k16_bf16(sum, left, right);
    else mma_m16n8k16(sum, left, right);
    for (int i = 0; i < 4; i++) c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = sum[i];
}
extern "C" __global__ void mma_kernel(const __half* a, const __half* b, float* c) { multiply<__half, false>(a, b, c); }
EXPORT_KERNEL(mma_kernel)
extern "C" __global__ void mma_bf16_kernel(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c) {
    multiply<__nv_bfloat16, true>(a, b, c);
}
EXPORT_KERNEL(mma_bf16_kernel)

template <typename T>
static void test_mma_of(const char* kernel) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (unsigned order = 0; order < 10; order++) {
        T a[256], b[128];
        float c[128], expected[128];
        for (T& x : a) x = T(normal(random));
        for (T& x : b) x = T(normal(random));
        for (float& x : c) x = normal(random);
        for (int row = 0; row < 16; row++) {
            for (int column = 0; column < 8; column++) {
                float sum = c[row * 8 + column];
                for (int k = 0; k < 16; k++)
                    sum += static_cast<float>(a[row * 16 + k]) * static_cast<float>(b[k * 8 + column]);
                expected[row * 8 + column] = sum;
            }
        }
        CHECK(launch(kernel, {1, 32, 0}, order, static_cast<const T*>(a), static_cast<const T*>(b), +c) == 0);
        CHECK(memcmp(c, expected, sizeof c) == 0);
    }
}
static void test_mma() {
    test_mma_of<__half>("mma_kernel");
    test_mma_of<__nv_bfloat16>("mma_bf16_kernel");
}

// Matrices of numbers 100 * matrix + 10 * row + column, with rows 80 bytes apart.
extern "C" __global__ void ldmatrix_kernel(uint32_t* out, bool transposed) {
    __shared__ __align__(16) uint16_t values[32 * 40];
    const int lane = threadIdx.x;
    for (int column = 0; column < 8; column++)
        values[lane * 40 + column] = static_cast<uint16_t>(100 * (lane / 8) + 10 * (lane % 8) + column);
    __syncwarp();
    uint32_t four[4], two[2];
    if (transposed) {
        ldmatrix_x4_trans(four, &values[lane * 40]);
        ldmatrix_x2_trans(two, &values[lane % 16 * 40]);
    } else {
        ldmatrix_x4(four, &values[lane * 40]);
        ldmatrix_x2(two, lane < 16 ? &values[lane * 40] : nullptr);
    }
    for (int i = 0; i < 4; i++) out[i * 32 + lane] = four[i];
    for (int i = 0; i < 2; i++) out[(4 + i) * 32 + lane] = two[i];
}
EXPORT_KERNEL(ldmatrix_kernel)

static void test_ldmatrix() {
    for (bool transposed : {false, true}) {
        uint32_t out[6 * 32];
        CHECK(launch("ldmatrix_kernel", {1, 32, 0}, 1, +out, transposed) == 0);
        for (uint32_t i = 0; i < 6; i++) {
            for (uint32_t lane = 0; lane < 32; lane++) {
                const uint32_t matrix = i < 4 ? i : i - 4;
                const uint32_t low = transposed ? 10 * (lane % 4 * 2) + lane / 4 : 10 * (lane / 4) + lane % 4 * 2;
                const uint32_t high = low + (transposed ? 10 : 1);
                CHECK(out[i * 32 + lane] == ((100 * matrix + high) << 16 | (100 * matrix + low)));
            }
        }
    }
}
