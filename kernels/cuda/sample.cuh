// What the sampler's kernels share with the host (the layouts in kernels/src/gpu/sample/records.rs), and its arithmetic
// on single logits, which is that of src/engine/sampler to the bit.
#pragma once

#include <cfloat>

#include "device.cuh"

namespace sampling {

// CUDA's atomics and shuffles of 64 bits are declared for this type.
using Wide = unsigned long long;

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / 32;
// Logits of a row that one block of the first two kernels has.
constexpr int CHUNK = 4096;
constexpr int LOGITS_PER_THREAD = CHUNK / THREADS;
constexpr int MAX_CHUNKS = 64;
// Tokens of a row that truncations look at without going through the row again.
constexpr uint32_t MAX_CANDIDATES = 4096;
// The same for the tokens beside which the chosen one is reported.
constexpr uint32_t MAX_LIKELY = 512;
constexpr uint32_t MAX_ALTERNATIVES = 20;
constexpr uint32_t NONE = 0xffffffff;

// Bits of Slot::flags. TOP_K means 1 < top_k < vocab.
constexpr uint32_t GREEDY = 1, TOP_K = 2, TOP_P = 4, MIN_P = 8, TYPICAL = 16;
constexpr uint32_t TRUNCATES = TOP_K | TOP_P | MIN_P | TYPICAL;
// Bits of Head::flags.
constexpr uint32_t NOT_FINITE = 1, NOTHING_ALLOWED = 2;
// An entry of a table of counts: how often the token was generated, and whether it was in the prompt.
constexpr uint32_t IN_PROMPT = 0x80000000;

struct Bias {
    uint32_t id;
    float value;
};

// A running sequence. num_generated and what `counts` points to are kept by sample_finish.
struct Slot {
    Wide seed;
    Wide top_p, typical_p;  // of 2^64
    uint32_t* counts;       // (vocab), or null where no penalty asks for them
    const Bias* biases;     // ascending ids
    const uint32_t* stops;
    float scale;  // 1 / temperature
    float min_p;
    float repetition, frequency, presence;
    float least_weight;  // no token below it can be chosen, but see choice_is_listed
    uint32_t flags, top_k;
    uint32_t num_biases, num_stops;
    uint32_t min_tokens;
    uint32_t logprobs;  // alternatives to report, or NONE
    uint32_t num_generated;
    uint32_t unused;
};
static_assert(sizeof(Slot) == 104, "as SlotRecord");

// A row of logits of a step. The rows of a run follow each other: each but the first was computed from a draft.
struct Row {
    uint32_t logits;  // which row of the tensor
    uint32_t slot;
    uint32_t token;   // the draft that the row was computed from; the prompt's next token
    uint32_t prompt;  // alternatives to report with the prompt's token; NONE where a token is sampled
    uint32_t first;   // row of the run's beginning
    uint32_t index;   // in the run
    uint32_t length;  // of the run
    uint32_t mask;    // row of masks, or NONE
};

struct Step {
    uint32_t num_rows;
    uint32_t area;  // of the output
    uint32_t unused[6];
    Row rows[1];
};

// What a chunk says of its logits: (key of the largest, complement of its id), or BAD.
struct Scan {
    Wide best;  // of the logits to choose from
    Wide raw;   // of the model's
};
constexpr Wide BAD = ~0ull;

// Sums over a chunk in fixed point.
struct Sums {
    Wide weight;
    Wide surprise;  // weight times how far the exponent is below 0
    Wide raw;       // weight by the model's logits at temperature 1
};

struct Item {
    uint32_t id;
    float logit;
};

struct Head {
    uint32_t token;
    uint32_t flags;
    uint32_t accepted;  // of a run's first row: tokens that the run brought
    float logprob;
};

struct Alternative {
    uint32_t id;
    float logprob;
};

// Memory that stays where it is.
struct Workspace {
    Slot* slots;
    const Step* step;
    const uint32_t* masks;  // (rows, words): a bit for each token that is allowed
    uint32_t* last_tokens;  // (slots)
    float* changed;         // (rows, vocab): logits after penalties, biases, bans and masks, where there are any
    Scan* scans;            // (rows, chunks)
    uint32_t* peaks;        // (rows, 2, chunks, WARPS): keys of the largest of 256 logits, changed and raw
    Sums* sums;             // (rows, chunks)
    Item* candidates;       // (rows, MAX_CANDIDATES)
    Item* likely;           // (rows, MAX_LIKELY)
    uint32_t* listed;       // (rows, 2): how many items these two would hold
    uint32_t* arrived;      // (rows): rows of a run that are done; 0 between steps
    Head* output;           // twice the heads of (rows) and Alternative of (rows, MAX_ALTERNATIVES)
    uint32_t vocab, chunks, max_rows, unused;
};
static_assert(sizeof(Workspace) == 120, "as WorkspaceRecord");

__device__ __forceinline__ Head* output_heads(const Workspace& space) {
    const size_t heads_of_row = 1 + MAX_ALTERNATIVES * sizeof(Alternative) / sizeof(Head);
    return space.output + space.step->area * space.max_rows * heads_of_row;
}
__device__ __forceinline__ Alternative* output_alternatives(const Workspace& space, uint32_t at) {
    return reinterpret_cast<Alternative*>(output_heads(space) + space.max_rows) + at * MAX_ALTERNATIVES;
}

// Numbers in the order of `f32::total_cmp`.
__device__ __forceinline__ uint32_t order(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}
__device__ __forceinline__ float from_order(uint32_t key) {
    return __uint_as_float(key & 0x80000000 ? key & 0x7fffffff : ~key);
}

// The same, with both zeros equal.
__device__ __forceinline__ uint32_t peak_key(float x) { return order(__fadd_rn(x, 0.0f)); }

// Of finite logits the largest of these belongs to the first of the largest; any other logit makes BAD.
__device__ __forceinline__ Wide place(float logit, uint32_t id) {
    return fabsf(logit) <= FLT_MAX ? static_cast<Wide>(peak_key(logit)) << 32 | ~id : BAD;
}
__device__ __forceinline__ float place_logit(Wide place) { return from_order(static_cast<uint32_t>(place >> 32)); }
__device__ __forceinline__ uint32_t place_id(Wide place) { return ~static_cast<uint32_t>(place); }

// exp_below_zero of src/engine/sampler/passes.rs: no operation is fused with another.
__device__ __forceinline__ float weight_of(float exponent) {
    const float round = 12582912.0f;
    const float clamped = exponent > -87.0f ? exponent : -87.0f;
    const float rounded = __fadd_rn(__fmul_rn(clamped, 1.44269504f), round);
    const float power = __fsub_rn(rounded, round);
    const float r = __fsub_rn(__fsub_rn(clamped, __fmul_rn(power, 0.6933594f)), __fmul_rn(power, -2.1219444e-4f));
    float poly = 1.0f / 5040.0f;
    const float coefficients[7] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
#pragma unroll
    for (int i = 0; i < 7; i++) poly = __fadd_rn(__fmul_rn(poly, r), coefficients[i]);
    const float scale = __uint_as_float((__float_as_uint(rounded) - __float_as_uint(round) + 127) << 23);
    return exponent > -87.0f ? __fmul_rn(poly, scale) : 0.0f;
}

__device__ __forceinline__ float exponent_of(float logit, float max, float scale) {
    return __fmul_rn(__fsub_rn(logit, max), scale);
}

// Weights are 1 at most and a vocabulary has 2^18 tokens at most, so 45 bits behind the point are as many as keep every
// sum below 2^64. What rounding takes or adds is 2^-46 a token, 2^-28 of the probability in all: a hundredth of what
// the weights themselves are inexact by. Sums are exact, whatever the order.
constexpr float FIXED_ONE = 35184372088832.0f;  // 2^45
// Weights below e^-32 round to 0.
constexpr float LEAST_EXPONENT = -32.0f;

__device__ __forceinline__ Wide fixed(float weight) {
    return static_cast<Wide>(__float2ll_rn(__fmul_rn(weight, FIXED_ONE)));
}

// weight * -exponent, for exponents from LEAST_EXPONENT on; below 2^44 since x e^-x is.
__device__ __forceinline__ Wide fixed_surprise(Wide weight, float exponent) {
    const Wide below = static_cast<Wide>(__float2ll_rn(__fmul_rn(-exponent, 1099511627776.0f)));  // 2^40
    return __umul64hi(weight << 12, below << 12);
}

// The share of a sum, rounded up, at least 1: what the best must reach together.
__device__ __forceinline__ Wide share_of(Wide total, Wide share) {
    const Wide high = __umul64hi(total, share) + (total * share != 0);
    return high > 0 ? high : 1;
}

// random.rs: SplitMix64's finaliser over seed and place. The upper 53 bits count.
__device__ __forceinline__ Wide finalise(Wide z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
__device__ __forceinline__ Wide draw_bits(Wide seed, Wide index) {
    const Wide golden = 0x9e3779b97f4a7c15ull;
    return finalise(finalise(seed + golden) ^ index * golden) & ~0x7ffull;
}

// Keskar et al., "CTRL", 2019, and what OpenAI's frequency and presence penalties subtract.
__device__ __forceinline__ float penalised(float logit, uint32_t count, const Slot& slot) {
    if (count == 0) return logit;
    logit = logit > 0.0f ? __fdiv_rn(logit, slot.repetition) : __fmul_rn(logit, slot.repetition);
    const uint32_t generated = count & ~IN_PROMPT;
    if (generated == 0) return logit;
    return __fsub_rn(logit, __fadd_rn(__fmul_rn(__uint2float_rn(generated), slot.frequency), slot.presence));
}

__device__ __forceinline__ bool holds_back_stops(const Slot& slot, const Row& row) {
    return slot.num_stops > 0 && slot.num_generated + row.index < slot.min_tokens;
}
__device__ __forceinline__ bool changes_logits(const Slot& slot, const Row& row) {
    return slot.counts != nullptr || slot.num_biases > 0 || holds_back_stops(slot, row) || row.mask != NONE;
}

} // namespace sampling
