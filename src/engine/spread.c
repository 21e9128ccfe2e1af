/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which lane is moved when workers differ in load. Load is time: of the turns that moved
 * something, as sampled by the workers, in a thousandth of the time since the last look. Counting
 * turns or buffers would not do: a worker that has too much to do makes fewer of both.
 */
#include "engine/internal.h"

/* Smaller differences are left alone: lanes that move back and forth help nobody. */
#define LEAST_GAP 200

static void measure(struct svq_engine *engine)
{
    int64_t now = engine_now();
    uint64_t us = (uint64_t)(now - engine->spread_at) / 1000 + 1;

    engine->spread_at = now;
    for (unsigned i = 0; i < engine->count; i++)
        engine->workers[i].load = 0;
    for (struct svq_lane *lane = engine->lanes; lane; lane = lane->next) {
        uint64_t sum = atomic_load_explicit(&lane->load_ns, memory_order_relaxed);

        lane->load = (sum - lane->load_before) / us;
        lane->load_before = sum;
        lane->worker->load += lane->load;
    }
}

/* The lane on `from` that fills most of the gap's half, and leaves less than there was. */
static struct svq_lane *choose(const struct svq_engine *engine, const struct worker *from,
                               uint64_t gap)
{
    struct svq_lane *best = NULL;
    uint64_t best_left = gap;

    for (struct svq_lane *lane = engine->lanes; lane; lane = lane->next) {
        uint64_t left = 2 * lane->load > gap ? 2 * lane->load - gap : gap - 2 * lane->load;

        if (lane->worker != from || lane->pinned || !lane->load || left >= best_left)
            continue;
        best = lane;
        best_left = left;
    }
    return gap - best_left >= LEAST_GAP / 2 ? best : NULL;
}

bool svq_engine_spread(struct svq_engine *engine)
{
    struct worker *busiest = &engine->workers[0], *idlest = &engine->workers[0];
    struct svq_lane *lane;

    measure(engine);
    for (unsigned i = 1; i < engine->count; i++) {
        if (engine->workers[i].load > busiest->load)
            busiest = &engine->workers[i];
        if (engine->workers[i].load < idlest->load)
            idlest = &engine->workers[i];
    }
    if (busiest->load - idlest->load < LEAST_GAP)
        return false;
    lane = choose(engine, busiest, busiest->load - idlest->load);
    return lane && !lane_move(lane, idlest);
}
