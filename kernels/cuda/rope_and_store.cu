// The step's q and k are rotated by their positions, q in place, and k and v go into the paged cache, in its type.
#include "rope.cuh"

constexpr int STORE_THREADS = 128;
constexpr int STORE_WARPS = STORE_THREADS / 32;
// Tokens whose values one block transposes.
constexpr int STORE_TOKENS = 32;
constexpr int MAX_HEAD_DIM = 32 * MAX_LANE_ELEMENTS;

// Cosines and sines of a step's rows times `magnitude`, from f64 products of position and frequency. angles: f32 (rows, 2,
// pairs).
extern "C" __global__ void __launch_bounds__(STORE_THREADS)
    rope_angles(const uint32_t* positions, const float* frequencies, float* angles, uint32_t rows, uint32_t pairs,
                float magnitude) {
    const uint32_t i = blockIdx.x * STORE_THREADS + threadIdx.x;
    if (i >= rows * pairs) return;
    const uint32_t row = i / pairs, pair = i % pairs;
    double sine, cosine;
    sincos((double)positions[row] * (double)frequencies[pair], &sine, &cosine);
    float* to = angles + (size_t)row * 2 * pairs + pair;
    to[0] = (float)(cosine * (double)magnitude);
    to[pairs] = (float)(sine * (double)magnitude);
}
EXPORT_KERNEL(rope_angles)

struct Store {
    Rope rope;
    // f32 (rows, (heads + 2 * kv_heads) * head_dim).
    float* qkv;
    // The slot of every row.
    const uint32_t* slots;
    uint8_t* pages;
    uint32_t rows, heads, kv_heads, half_page;
    // Whether the cache keeps bytes.
    uint32_t bytes;
    uint32_t unused;

    __device__ __forceinline__ float* head(int row, int head) const {
        return qkv + ((size_t)row * (heads + 2 * kv_heads) + head) * rope.head_dim;
    }
    __device__ __forceinline__ uint8_t* keys(uint32_t slot, int kv_head) const {
        return pages + page_offset(slot / PAGE_POSITIONS, kv_head, kv_heads, half_page);
    }
};

// A warp rotates one head of q or k of one row.
template <class T> __device__ __forceinline__ void rotate_head(const Store& store, int row, int head) {
    const uint32_t slot = store.slots[row];
    if (slot == NO_SLOT) return;
    const int head_dim = store.rope.head_dim, lane = threadIdx.x % 32;
    float* at = store.head(row, head);
    float x[MAX_LANE_ELEMENTS];
    if (head >= (int)store.heads) {
        load_key<T>(store.rope, at, row, x);
        store_key<T>(store.keys(slot, head - store.heads), slot % PAGE_POSITIONS, head_dim, x);
        return;
    }
    load_query<T>(store.rope, at, row, x);
    // Every lane has read its pairs before any is overwritten.
    __syncwarp();
#pragma unroll
    for (int j = 0; j < MAX_LANE_ELEMENTS; j++) {
        if (lane + 32 * j < head_dim) at[lane + 32 * j] = x[j];
    }
}

// A block stores the values of one head of neighbouring rows, through shared memory: neighbouring positions are
// neighbours in the page.
template <class T> __device__ __forceinline__ void store_values(const Store& store, int first_row, int kv_head) {
    // Rows are an odd number of words apart, so that 32 of them lie in different banks.
    constexpr int PAD = 4 / sizeof(T);
    __shared__ T tile[STORE_TOKENS * (MAX_HEAD_DIM + PAD)];
    const int head_dim = store.rope.head_dim;
    const int rows = min(STORE_TOKENS, (int)store.rows - first_row);
    for (int i = threadIdx.x / 32; i < rows; i += STORE_WARPS) {
        const uint32_t slot = store.slots[first_row + i];
        if (slot == NO_SLOT) continue;
        float x[MAX_LANE_ELEMENTS];
        load_head(store.rope, store.head(first_row + i, store.heads + store.kv_heads + kv_head), 0, false, x);
        uint8_t* values = store.keys(slot, kv_head) + store.half_page;
        store_head(values, slot % PAGE_POSITIONS, tile + i * (head_dim + PAD), 1, head_dim, x);
    }
    __syncthreads();
    // Threads beside each other take neighbouring rows, a power of two of them.
    const int shift = rows > 1 ? 32 - __clz(rows - 1) : 0;
    const int i = threadIdx.x & ((1 << shift) - 1);
    const uint32_t slot = i < rows ? store.slots[first_row + i] : NO_SLOT;
    if (slot == NO_SLOT) return;
    T* values = reinterpret_cast<T*>(store.keys(slot, kv_head) + store.half_page) + slot % PAGE_POSITIONS;
    for (int d = threadIdx.x >> shift; d < head_dim; d += STORE_THREADS >> shift) {
        values[d * PAGE_POSITIONS] = tile[i * (head_dim + PAD) + d];
    }
}

// Blocks 0..rotate_blocks take a head of q or k for each warp, those after them a head of v and 32 rows each.
template <class T> __device__ __forceinline__ void rotate_and_store(const Store& store, uint32_t rotate_blocks) {
    if (blockIdx.x < rotate_blocks) {
        const uint32_t heads = store.heads + store.kv_heads;
        const uint32_t i = blockIdx.x * STORE_WARPS + threadIdx.x / 32;
        if (i < store.rows * heads) rotate_head<T>(store, i / heads, i % heads);
        return;
    }
    const uint32_t i = blockIdx.x - rotate_blocks;
    store_values<T>(store, i / store.kv_heads * STORE_TOKENS, i % store.kv_heads);
}

extern "C" __global__ void __launch_bounds__(STORE_THREADS) rope_and_store(Store store, uint32_t rotate_blocks) {
    if (store.bytes) {
        rotate_and_store<int8_t>(store, rotate_blocks);
    } else {
        rotate_and_store<__half>(store, rotate_blocks);
    }
}
EXPORT_KERNEL(rope_and_store)
