// How fibers meet: arrivals at collectives and barriers, and the ends of threads, which count as arrivals. Included by
// launch.h only.
#pragma once

#include "report.h"

namespace emulation {

[[noreturn]] inline void wrong_meeting(const Collective& collective, Wait kind, Location at) {
    fail("%s at %s:%u meets %s at %s:%u, where lanes %08x wait for mask %08x", wait_name(kind), at.file_name(),
         static_cast<unsigned>(at.line()), wait_name(collective.kind), collective.at.file_name(),
         static_cast<unsigned>(collective.at.line()), collective.arrived, collective.mask);
}

// The collective of this mask, or a free place for it. Lanes may wait for others that first meet with a smaller mask,
// so masks that overlap can be open at once; each has a waiting lane of its own, which bounds their count.
inline Collective& find_collective(Warp& warp, uint32_t mask) {
    Collective& usual = warp.collectives[__builtin_ctz(mask)];
    if (warp.open == 0 || (usual.arrived != 0 && usual.mask == mask)) return usual;
    for (uint32_t open = warp.open; open != 0; open &= open - 1) {
        Collective& other = warp.collectives[__builtin_ctz(open)];
        if (other.mask == mask) return other;
    }
    return usual.arrived == 0 ? usual : warp.collectives[__builtin_ctz(~warp.open)];
}

Fiber* arrive(uint32_t mask, Wait kind, Location at, Compute compute) {
    Fiber& self = *current;
    Warp& warp = *self.warp;
    const uint32_t bit = 1u << self.lane;
    if ((mask & bit) == 0) {
        fail("%s at %s:%u with mask %08x, which lacks the calling lane", wait_name(kind), at.file_name(),
             static_cast<unsigned>(at.line()), mask);
    }
    Collective& collective = find_collective(warp, mask);
    if (collective.arrived == 0) {
        collective.mask = mask;
        collective.kind = kind;
        collective.at = at;
        collective.compute = compute;
        warp.open |= 1u << (&collective - warp.collectives);
    } else if (collective.kind != kind || collective.compute != compute) {
        wrong_meeting(collective, kind, at);
    }
    collective.arrived |= bit;
    block->idle_yields = 0;
    if ((mask & ~(collective.arrived | warp.exited)) == 0) {
        complete(warp, collective);
        return nullptr;
    }
    self.wait = kind;
    self.at = at;
    return take_next();
}

inline void release_barrier() {
    block->barrier_result = block->barrier_kind == Wait::barrier_or    ? block->votes != 0
                            : block->barrier_kind == Wait::barrier_and ? block->votes == block->arrived
                                                                       : block->votes;
    block->arrived = block->votes = 0;
    for (uint32_t i = 0; i < block->warps; i++) {
        Warp& warp = block->warp[i];
        const uint32_t lanes = warp.at_barrier;
        warp.at_barrier = 0;
        make_ready(warp, lanes);
    }
}

Fiber* arrive_at_barrier(Wait kind, bool predicate, Location at) {
    Fiber& self = *current;
    if (block->arrived == 0) {
        block->barrier_kind = kind;
        block->barrier_at = at;
    } else if (block->barrier_kind != kind || block->barrier_at.line() != at.line()) {
        fail("%s at %s:%u, while others wait for %s at %s:%u", wait_name(kind), at.file_name(),
             static_cast<unsigned>(at.line()), wait_name(block->barrier_kind), block->barrier_at.file_name(),
             static_cast<unsigned>(block->barrier_at.line()));
    }
    block->arrived++;
    block->idle_yields = 0;
    block->votes += predicate;
    if (block->arrived == block->alive) {
        release_barrier();
        return nullptr;
    }
    self.wait = kind;
    self.at = at;
    self.warp->at_barrier |= 1u << self.lane;
    return take_next();
}

// Ended threads count as arrived at barriers and collectives, as on the card.
[[noreturn]] void end_thread() {
    Fiber& self = *current;
    Warp& warp = *self.warp;
    self.wait = Wait::finished;
    warp.exited |= 1u << self.lane;
    block->alive--;
    block->idle_yields = 0;
    for (uint32_t open = warp.open; open != 0; open &= open - 1) {
        Collective& collective = warp.collectives[__builtin_ctz(open)];
        if ((collective.mask & ~(collective.arrived | warp.exited)) == 0) complete(warp, collective);
    }
    if (block->arrived != 0 && block->arrived == block->alive) release_barrier();
    switch_stacks(&self.stack_pointer, block->alive == 0 ? block->main_stack_pointer : take_next()->stack_pointer);
    __builtin_unreachable();
}

} // namespace emulation
