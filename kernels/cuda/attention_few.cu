// Attention of few queries (decoding): fragments of 16 rows, long contexts split over blocks, so that one sequence keeps
// the whole card busy. A fixed grid takes whatever the step's list says.
#include "attention.cuh"

#define ATTENTION_FEW(name, head_dim, element, blocks)                                                                \
    extern "C" __global__ void __launch_bounds__(attention::THREADS, blocks) name(attention::Arguments args) {       \
        attention::attend<head_dim, attention::element, 4, true>(args);                                              \
    }                                                                                                                \
    EXPORT_KERNEL(name)

ATTENTION_FEW(attention_few_f16_64, 64, Halves, 4)
ATTENTION_FEW(attention_few_f16_128, 128, Halves, 4)
ATTENTION_FEW(attention_few_f16_256, 256, Halves, 2)
ATTENTION_FEW(attention_few_q8_64, 64, Bytes, 4)
ATTENTION_FEW(attention_few_q8_128, 128, Bytes, 4)
ATTENTION_FEW(attention_few_q8_256, 256, Bytes, 2)
#undef ATTENTION_FEW
