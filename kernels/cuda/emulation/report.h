// Messages about kernels that misuse the card, after which the process aborts. Included by launch.h only.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fibers.h"

namespace emulation {

const char* wait_name(Wait wait) {
    static const char* const names[] = {
        "nothing", "__syncthreads", "__syncthreads_or", "__syncthreads_and", "__syncthreads_count", "__syncwarp",
        "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync", "__ballot_sync", "__any_sync",
        "__all_sync", "__match_any_sync", "__match_all_sync", "__reduce_sync", "mma_m16n8k16", "mma_m16n8k16_bf16",
        "ldmatrix", "its turn", "ended"};
    return names[static_cast<int>(wait)];
}

void print_place() {
    fprintf(stderr, "CUDA emulation: kernel %s", block != nullptr ? block->kernel : "?");
    if (block == nullptr) return;
    fprintf(stderr, ", block (%u, %u, %u), order %u", block->index.x, block->index.y, block->index.z, block->order);
    if (current == nullptr || current->warp == nullptr) return;
    fprintf(stderr, ", thread (%u, %u, %u)", current->thread.x, current->thread.y, current->thread.z);
}

void fail(const char* format, ...) {
    print_place();
    fprintf(stderr, ": ");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    abort();
}

inline bool same_wait(const Fiber& a, const Fiber& b) {
    return a.wait == b.wait && (a.wait == Wait::finished || (a.at.line() == b.at.line() &&
                                                             strcmp(a.at.file_name(), b.at.file_name()) == 0));
}

// One line for every place at which threads wait, with the threads there.
void report_deadlock() {
    print_place();
    fprintf(stderr, ": threads wait forever\n");
    for (uint32_t i = 0; i < block->threads; i++) {
        const Fiber& first = block->fiber[i];
        bool reported = false;
        for (uint32_t j = 0; j < i && !reported; j++) reported = same_wait(first, block->fiber[j]);
        if (reported) continue;
        fprintf(stderr, "  %s", wait_name(first.wait));
        if (first.wait != Wait::finished)
            fprintf(stderr, " at %s:%u", first.at.file_name(), static_cast<unsigned>(first.at.line()));
        fprintf(stderr, ": threads");
        for (uint32_t j = i; j < block->threads; j++) {
            if (!same_wait(first, block->fiber[j])) continue;
            uint32_t end = j;
            while (end + 1 < block->threads && same_wait(first, block->fiber[end + 1])) end++;
            fprintf(stderr, end > j ? " %u-%u" : " %u", j, end);
            j = end;
        }
        fprintf(stderr, "\n");
    }
    abort();
}

inline void complete(Warp& warp, Collective& collective) {
    const uint32_t lanes = collective.arrived;
    collective.compute(warp, lanes);
    collective.arrived = 0;
    warp.open &= ~(1u << (&collective - warp.collectives));
    make_ready(warp, lanes & ~(1u << current->lane));
}

} // namespace emulation
