/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What svqd does around a relay, in one thread and at random moments: turns, arming and sleeping,
 * the switches, and the dirty log with a second opinion on every bit.
 */
#include <stdlib.h>
#include <string.h>

#include "model.h"

void host_guest_kicks(struct world *w)
{
    /* In a switch either may listen already or still: a switch kicks once when it is through. */
    if (w->host.phase == PHASE_DIRECT || w->host.phase == PHASE_TO_SHADOW)
        w->backend.kick = true;
    else
        w->host.guest_kick = true;
}

void host_backend_calls(struct world *w)
{
    if (w->backend.shadow)
        w->host.backend_call = true;
    else
        w->guest.call = true;
}

/* ---- Dirty log ----------------------------------------------------------------------------- */

static void expect_pages(struct world *w, uint64_t relayed)
{
    struct queue *q = &w->queue;

    for (; relayed != q->relayed; relayed++) {
        const struct chain *chain = q->completed[relayed & (q->room - 1)];

        for (unsigned i = 0; i < chain->count; i++)
            if (chain->bufs[i].write)
                model_set_range(w->host.expected, chain->bufs[i].gpa, chain->bufs[i].len);
        w->totals->logged_chains++;
    }
}

/* The log of the buffers is exact; the log of the ring lies between what must and what may be. */
static void check_log(struct world *w, struct ring_mark before)
{
    struct host *h = &w->host;
    static uint8_t may[(MODEL_PAGES + 7) / 8];

    if (h->log_used) {
        memset(may, 0, RINGS_END_PAGE / 8);
        rings_written(w, before, h->expected, may);
    }
    for (uint64_t page = RINGS_FIRST_PAGE; h->log_used && page < RINGS_END_PAGE; page++) {
        bool marked = kit_log_test(&h->log, page);
        bool must = h->expected[page / 8] & (1u << (page % 8));

        model_check(w, marked || !must, "page 0x%llx of the ring is not logged",
                    (unsigned long long)page);
        if (marked && !must) {
            model_check(w, may[page / 8] & (1u << (page % 8)),
                        "page 0x%llx of the ring is logged without need", (unsigned long long)page);
            model_set_page(h->expected, page);
        }
    }
    if (!memcmp(h->expected, h->log.bits, h->log.size))
        return;
    for (uint64_t page = 0; page < MODEL_PAGES; page++) {
        bool must = h->expected[page / 8] & (1u << (page % 8));

        model_check(w, kit_log_test(&h->log, page) == must, "page 0x%llx is %s",
                    (unsigned long long)page, must ? "not logged" : "logged without need");
    }
}

static void drop_old_log(struct world *w)
{
    struct host *h = &w->host;

    if (!h->has_old)
        return;
    model_check(w, !memcmp(h->old.bits, h->old_bits, h->old.size),
                "a log is written to after it was swapped out");
    kit_log_free(&h->old);
    h->has_old = false;
}

static void stop_log(struct world *w)
{
    struct host *h = &w->host;

    if (!h->logging)
        return;
    drop_old_log(w);
    h->old = h->log;
    memcpy(h->old_bits, h->old.bits, h->old.size);
    h->has_old = true;
    h->logging = false;
}

static void start_log(struct world *w)
{
    struct host *h = &w->host;

    stop_log(w);
    kit_log_init(&h->log, MODEL_PAGES);
    memset(h->expected, 0, sizeof(h->expected));
    h->logging = true;
    h->log_used = kit_percent(&w->rng, 80);
    svq_relay_set_log(h->relay, h->log.log, h->log_used, rings_log_address(w));
}

void host_change_log(struct world *w)
{
    struct host *h = &w->host;
    unsigned draw = kit_below(&w->rng, 10);

    if (h->phase != PHASE_SHADOW)
        return;
    if (h->logging && draw < 6) { /* the VMM harvests */
        kit_log_clear(&h->log);
        memset(h->expected, 0, sizeof(h->expected));
    } else if (draw < 9) {
        start_log(w);
    } else if (h->logging) {
        stop_log(w);
        svq_relay_set_log(h->relay, NULL, false, 0);
    }
}

void host_change_memory(struct world *w)
{
    if (w->host.relay)
        rings_remap(w, w->host.relay);
}

/* ---- Turns --------------------------------------------------------------------------------- */

/* Whatever the relay did: has the guest got the completions in the back-end's order? */
static void account(struct world *w, struct ring_mark before)
{
    struct host *h = &w->host;
    struct queue *q = &w->queue;
    uint16_t moved = (uint16_t)(rings_mark(w).used - before.used);
    uint64_t relayed = q->relayed;
    struct svq_relay_state state;

    model_check(w, moved <= q->completed_count - relayed, "the relay completes what nobody did");
    q->relayed += moved;
    for (; relayed != q->relayed; relayed++)
        h->bytes += q->completed[relayed & (q->room - 1)]->bytes;
    svq_relay_state(h->relay, &state);
    model_check(w, state.in_flight <= w->num, "%u chains in flight", state.in_flight);
    model_check(w, state.guest_used == rings_mark(w).used, "guest_used is wrong");
    if (!h->logging)
        return;
    expect_pages(w, q->relayed - moved);
    check_log(w, before);
}

static unsigned turn(struct world *w)
{
    struct ring_mark before = rings_mark(w);
    unsigned bits = svq_relay_poll(w->host.relay);
    const char *reason = NULL;

    svq_relay_fault(w->host.relay, &reason);
    model_check(w, !(bits & SVQ_RELAY_FAULT), "fault: %s", reason);
    if (bits & SVQ_RELAY_KICK_BACKEND)
        w->backend.kick = true;
    if (bits & SVQ_RELAY_CALL_GUEST)
        w->guest.call = true;
    account(w, before);
    return bits;
}

static bool arm(struct world *w)
{
    struct ring_mark before = rings_mark(w);
    bool again = svq_relay_arm(w->host.relay);

    account(w, before);
    return again;
}

static void disarm(struct world *w)
{
    struct ring_mark before = rings_mark(w);

    svq_relay_disarm(w->host.relay);
    account(w, before);
}

static void wake_up(struct world *w)
{
    struct host *h = &w->host;

    h->guest_kick = false;
    h->backend_call = false;
    h->hot = true;
    h->idle = false;
    if (kit_percent(&w->rng, 90))
        disarm(w);
}

/* Turns while hot; after an idle one arm, now or later: others may have their turns in between. */
static bool shadow_step(struct world *w)
{
    struct host *h = &w->host;

    if (!h->hot) {
        if (!h->guest_kick && !h->backend_call)
            return false;
        wake_up(w);
    } else if (!h->idle || kit_percent(&w->rng, 50)) {
        h->idle = !(turn(w) & SVQ_RELAY_BUSY);
    } else {
        h->hot = arm(w);
        if (h->hot)
            wake_up(w);
    }
    return true;
}

/* ---- Switches ------------------------------------------------------------------------------ */

void host_toggle(struct world *w)
{
    struct host *h = &w->host;

    if (h->phase == PHASE_DIRECT) {
        h->phase = PHASE_TO_SHADOW;
        w->backend.stopping = true;
    } else if (h->phase == PHASE_SHADOW) {
        h->phase = PHASE_TO_DIRECT;
        svq_relay_hold(h->relay, true);
        h->base_known = false;
    }
}

/* The guest-side index at which every chain before it has been taken, and no other. */
static void check_base(struct world *w, uint16_t base)
{
    model_check(w, base == (uint16_t)(w->first + w->queue.taken), "the hand-over is at %u, not %u",
                base, (uint16_t)(w->first + w->queue.taken));
}

static bool to_shadow_step(struct world *w)
{
    struct host *h = &w->host;
    struct backend *b = &w->backend;
    uint16_t base;

    if (b->taken_count)
        return true; /* until used.idx has caught up with the base */
    base = b->device->ops->stop(b->device);
    check_base(w, base);
    h->relay = rings_relay(w, base);
    h->relayed_before = w->queue.relayed = w->queue.completed_count;
    h->bytes = 0;
    h->hot = true;
    h->idle = false;
    h->guest_kick = b->kick;
    h->backend_call = false;
    b->kick = false;
    backend_attach(w, true, 0);
    b->awake = false; /* the first kick starts it */
    b->device->ops->kicks(b->device, true);
    b->kick = true;
    h->phase = PHASE_SHADOW;
    w->totals->switches++;
    return true;
}

static void check_stats(struct world *w)
{
    struct svq_relay_stats stats;

    svq_relay_stats(w->host.relay, &stats);
    model_check(w, stats.chains == w->queue.relayed - w->host.relayed_before,
                "the relay counts %llu chains", (unsigned long long)stats.chains);
    model_check(w, stats.bytes == w->host.bytes, "the relay counts %llu bytes",
                (unsigned long long)stats.bytes);
}

static void leave_shadow(struct world *w)
{
    struct host *h = &w->host;
    struct ring_mark before = rings_mark(w);
    uint16_t base;

    if (kit_percent(&w->rng, 50))
        disarm(w);
    before = rings_mark(w);
    base = svq_relay_detach(h->relay);
    account(w, before);
    check_base(w, base);
    check_stats(w);
    svq_relay_free(h->relay);
    h->relay = NULL;
    stop_log(w);
    /* In its first turn the back-end finds what waits; the guest may have been called for. */
    backend_attach(w, false, base);
    w->backend.kick = true;
    w->guest.call = true;
    h->phase = PHASE_DIRECT;
    w->totals->switches++;
}

static bool to_direct_step(struct world *w)
{
    struct host *h = &w->host;
    struct backend *b = &w->backend;
    int drained;

    turn(w);
    if (!h->base_known) {
        if (kit_percent(&w->rng, 50))
            return true;
        /* It answers at once; what it has taken it may complete before or after. */
        h->base = b->device->ops->stop(b->device);
        h->base_known = true;
        b->stopping = true;
        return true;
    }
    drained = svq_relay_drained(h->relay, h->base);
    model_check(w, drained >= 0, "drained() refuses base %u", h->base);
    if (drained) {
        model_check(w, !b->taken_count, "drained with %u chains in the back-end", b->taken_count);
        leave_shadow(w);
    }
    return true;
}

bool host_step(struct world *w)
{
    switch (w->host.phase) {
    case PHASE_DIRECT:
        return false;
    case PHASE_TO_SHADOW:
        return to_shadow_step(w);
    case PHASE_SHADOW:
        return shadow_step(w);
    case PHASE_TO_DIRECT:
        return to_direct_step(w);
    }
    return false;
}

void host_init(struct world *w)
{
    w->host.phase = PHASE_DIRECT;
}

void host_free(struct world *w)
{
    stop_log(w);
    drop_old_log(w);
    if (w->host.relay) {
        check_stats(w);
        svq_relay_free(w->host.relay);
    }
}
