/* SPDX-License-Identifier: BSD-3-Clause */
/* What a scenario is made of, and who acts next: all drawn from its seed. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* ---- Drawing ------------------------------------------------------------------------------- */

static uint64_t features_of(unsigned kind)
{
    return (kind & KIND_PACKED ? SVQ_BIT(SVQ_F_RING_PACKED) : 0) |
           (kind & KIND_EVENT_IDX ? SVQ_BIT(SVQ_F_EVENT_IDX) : 0) |
           (kind & KIND_INDIRECT ? SVQ_BIT(SVQ_F_INDIRECT_DESC) : 0) |
           (kind & KIND_IN_ORDER ? SVQ_BIT(SVQ_F_IN_ORDER) : 0);
}

static struct side side_of(unsigned kind)
{
    return (struct side){
        .kind = kind,
        .format = kind & KIND_PACKED ? SVQ_RING_PACKED : SVQ_RING_SPLIT,
        .features = features_of(kind),
        .packed = kind & KIND_PACKED,
        .event_idx = kind & KIND_EVENT_IDX,
        .indirect = kind & KIND_INDIRECT,
        .in_order = kind & KIND_IN_ORDER,
    };
}

const char *scenario_kind_name(unsigned kind)
{
    static char names[4][64];
    static unsigned turn;
    char *name = names[turn++ % 4];

    strcpy(name, kind & KIND_PACKED ? "packed" : "split");
    if (kind & KIND_EVENT_IDX)
        strcat(name, "+event_idx");
    if (kind & KIND_INDIRECT)
        strcat(name, "+indirect");
    if (kind & KIND_IN_ORDER)
        strcat(name, "+in_order");
    return name;
}

/*
 * Seeds that follow one another go through all combinations, in an order that mixes them, and
 * through those with equal sides once more for each four of the others: only they can be switched.
 */
static void draw_kinds(struct world *w)
{
    unsigned turn = (unsigned)(w->seed % (COMBINATIONS + 4 * KINDS));
    unsigned mixed = turn * 77 % COMBINATIONS; /* 77 is odd: none is left out */

    if (turn < COMBINATIONS) {
        w->front = side_of(mixed % KINDS);
        w->back = side_of(mixed / KINDS);
    } else {
        w->front = w->back = side_of(turn % KINDS);
    }
    w->same = w->front.kind == w->back.kind && kit_percent(&w->rng, 90);
}

/* Small ones mostly: they wrap more often, and waiting is what happens in them. */
static void draw_sizes(struct world *w)
{
    unsigned power =
        kit_percent(&w->rng, 92) ? kit_below(&w->rng, 12) : kit_between(&w->rng, 12, 15);
    unsigned num = 1u << power, shadow = 1;

    if (w->front.packed && kit_percent(&w->rng, 70))
        num = kit_between(&w->rng, num, 2 * num < SVQ_RING_MAX ? 2 * num - 1 : SVQ_RING_MAX);
    while (shadow < num)
        shadow *= 2;
    if (w->back.packed)
        shadow = num;
    /* Larger than it has to be? */
    if (kit_percent(&w->rng, 15) && 2 * shadow <= SVQ_RING_MAX)
        shadow = w->back.packed ? kit_between(&w->rng, shadow, 2 * shadow) : 2 * shadow;
    w->front.num = num;
    w->back.num = shadow;
}

/* Anywhere, but often close before a wrap. */
static void draw_start(struct world *w)
{
    unsigned num = w->front.num;
    bool close = kit_percent(&w->rng, 50);

    if (!w->front.packed) {
        w->first = (uint16_t)(close ? 65536 - kit_below(&w->rng, 2 * num) : kit_rand(&w->rng));
        return;
    }
    w->first = (uint16_t)(close ? num - 1 - kit_below(&w->rng, num < 4 ? num : 4)
                                : kit_below(&w->rng, num));
    if (kit_percent(&w->rng, 50))
        w->first |= 0x8000;
}

static void draw_habits(struct world *w)
{
    struct guest *g = &w->guest;

    g->goal = kit_between(&w->rng, 200, 1000) + w->front.num * kit_between(&w->rng, 40, 120) / 100;
    g->burst_percent = kit_percent(&w->rng, 50) ? 0 : kit_between(&w->rng, 1, 20);
    g->long_percent = kit_percent(&w->rng, 30) ? 10 : 1;
    /* As long as may be: often where that is short, hardly ever where it takes a megabyte. */
    g->most_percent = w->front.num <= 64 ? 50 : w->front.num <= MODEL_MAX_TABLE ? 10 : 2;
    g->delay_percent = kit_percent(&w->rng, 50) ? 0 : 40;
}

void scenario_init(struct world *w, uint64_t seed, struct kit_memory *memory, struct totals *totals)
{
    memset(w, 0, sizeof(*w));
    w->seed = seed;
    w->rng.state = seed;
    w->memory = memory;
    w->totals = totals;
    draw_kinds(w);
    draw_sizes(w);
    draw_start(w);
    draw_habits(w);
    w->tracked = kit_percent(&w->rng, 50);
    w->may_share = kit_percent(&w->rng, 60);
    for (w->queue.room = 1; w->queue.room < w->front.num;)
        w->queue.room *= 2;
    w->queue.chains = calloc(w->queue.room, sizeof(w->queue.chains[0]));
    w->queue.completed = calloc(w->queue.room, sizeof(w->queue.completed[0]));
    kit_require(w->queue.chains && w->queue.completed);
    guest_init(w);
    rings_init(w);
    backend_init(w);
    host_init(w);
}

/* Whatever a guest still has out at the end, it has as memory of ours. */
static void free_chains(struct world *w)
{
    for (uint64_t i = w->queue.reaped; i != w->queue.offered; i++)
        chain_free(w, w->queue.chains[i & (w->queue.room - 1)]);
}

void scenario_free(struct world *w)
{
    host_free(w);
    backend_free(w);
    rings_free(w);
    free_chains(w);
    guest_free(w);
    free(w->queue.chains);
    free(w->queue.completed);
}

/* ---- Running ------------------------------------------------------------------------------- */

/* One step of somebody. Return: somebody could do something. */
static bool step(struct world *w)
{
    static bool (*const steps[])(struct world *) = {guest_step, backend_step, host_step};
    unsigned who = kit_below(&w->rng, 3);

    for (unsigned i = 0; i < 3; i++)
        if (steps[(who + i) % 3](w))
            return true;
    return false;
}

static void step_until_asleep(struct world *w)
{
    uint64_t patience = 1000000 + 100 * (w->queue.offered - w->queue.reaped);

    while (step(w))
        model_check(w, patience--, "no rest: somebody stays awake without work");
}

/*
 * The back-end completes nothing, so that nobody is woken by completions: what the guest offers
 * must get there by kicks alone. (Unless it may have to wait for room.)
 */
static void fill_up(struct world *w)
{
    enum phase phase = w->host.phase;

    if (w->front.indirect || (phase != PHASE_DIRECT && phase != PHASE_SHADOW))
        return;
    w->backend.keeping = true;
    step_until_asleep(w);
    w->backend.keeping = false;
    model_check(w, w->queue.taken == w->queue.offered && !w->backend.redo_count,
                "a lost kick: all sleep with %" PRIu64 " chains on their way",
                w->queue.offered - w->queue.taken);
}

/*
 * Nothing new is offered, and everybody goes on by notifications alone until all are asleep.
 * Whatever is not back by then, nobody would ever have brought.
 */
static void quiesce(struct world *w)
{
    w->quiescing = true;
    if (kit_percent(&w->rng, 50))
        fill_up(w);
    step_until_asleep(w);
    model_check(w, w->queue.reaped == w->queue.offered,
                "a lost wake-up: all sleep with %" PRIu64 " chains under way",
                w->queue.offered - w->queue.reaped);
    w->quiescing = false;
    w->totals->quiesces++;
}

static void spurious_notifications(struct world *w)
{
    switch (kit_below(&w->rng, 4)) {
    case 0:
        host_guest_kicks(w);
        break;
    case 1:
        host_backend_calls(w);
        break;
    case 2:
        w->backend.kick = true;
        break;
    default:
        w->guest.call = true;
    }
}

void scenario_run(struct world *w)
{
    struct totals *totals = w->totals;

    while (w->queue.offered < w->guest.goal) {
        unsigned draw = kit_below(&w->rng, 1000);

        step(w);
        if (draw < 8)
            host_toggle(w);
        else if (draw < 28)
            log_change(w);
        else if (draw < 32)
            quiesce(w);
        else if (draw < 36)
            spurious_notifications(w);
        else if (draw < 37)
            host_change_memory(w);
        else if (draw < 42)
            host_crash(w);
        else if (draw < 44)
            host_die(w);
    }
    quiesce(w);
    totals->chains += w->queue.reaped;
    totals->scenarios++;
    totals->pairs[w->front.packed][w->back.packed]++;
    totals->pair_chains[w->front.packed][w->back.packed] += w->queue.reaped;
    totals->drawn[w->back.kind * KINDS + w->front.kind]++;
}
