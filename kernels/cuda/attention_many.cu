// Attention of many queries (prompts): 64 rows of one sequence read the same keys and values.
#include "attention.cuh"

#define ATTENTION_MANY(name, head_dim, element, team)                                                                 \
    extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) name(attention::Arguments args) {            \
        attention::attend<head_dim, attention::element, team, false>(args);                                          \
    }                                                                                                                \
    EXPORT_KERNEL(name)

ATTENTION_MANY(attention_many_f16_64, 64, Halves, 1)
ATTENTION_MANY(attention_many_f16_128, 128, Halves, 1)
ATTENTION_MANY(attention_many_f16_256, 256, Halves, 2)
ATTENTION_MANY(attention_many_q8_64, 64, Bytes, 1)
ATTENTION_MANY(attention_many_q8_128, 128, Bytes, 1)
ATTENTION_MANY(attention_many_q8_256, 256, Bytes, 2)
#undef ATTENTION_MANY
