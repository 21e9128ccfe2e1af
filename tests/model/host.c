/* SPDX-License-Identifier: BSD-3-Clause */
/* What svqd does around a relay, in one thread and at random moments: turns, sleep, switches. */
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

void host_change_memory(struct world *w)
{
    if (w->host.relay)
        rings_remap(w, w->host.relay);
}

/* ---- Turns --------------------------------------------------------------------------------- */

/*
 * The guest gets chains in the back-end's order; with IN_ORDER in its own, and none before the
 * back-end has completed it.
 */
static void check_relayed(struct world *w, const struct chain *chain)
{
    struct queue *q = &w->queue;
    const struct chain *next = w->front.in_order ? q->chains[q->relayed & (q->room - 1)]
                                                 : q->completed[q->relayed & (q->room - 1)];

    model_check(w, q->relayed < q->completed_count && chain->state == CHAIN_COMPLETED,
                "the relay completes what nobody did");
    model_check(w, chain == next, "the relay completes chain %llu before chain %llu",
                (unsigned long long)chain->number, (unsigned long long)next->number);
    if (chain != q->completed[q->relayed & (q->room - 1)])
        w->totals->reorders++;
}

/* Unless the relay had to look into the chain, all it knows is what the back-end says. */
static void note_length(struct world *w, struct chain *chain)
{
    struct host *h = &w->host;
    bool read = !h->shared || h->logging || chain->skipped || chain->read;

    if (!read)
        chain->expected = chain->said;
    h->bytes += read ? chain->bytes : chain->said;
    w->totals->shared += h->shared;
    w->totals->unread += !read;
}

/* The relay has taken all chains before this one. */
static void note_taken(struct world *w, uint64_t taken, bool read)
{
    struct queue *q = &w->queue;

    for (uint64_t n = w->host.taken; n < taken; n++)
        q->chains[n & (q->room - 1)]->read = read;
    w->host.taken = taken;
}

/* Whatever the relay did since rings_begin(): was it right? */
static void account(struct world *w)
{
    struct host *h = &w->host;
    struct svq_relay_state state;
    struct chain *chain;

    while ((chain = rings_next(w)) != NULL) {
        check_relayed(w, chain);
        w->queue.relayed++;
        note_length(w, chain);
        log_expect(w, chain);
    }
    svq_relay_state(h->relay, &state);
    rings_check_state(w, &state);
    if (w->queue.relayed + state.in_flight > h->taken)
        note_taken(w, w->queue.relayed + state.in_flight, h->logging);
    log_check(w);
}

/*
 * A back-end that stops and takes no more can be drained if what it leaves can go back to the
 * guest's ring; if it cannot, the relay knows before it stops. It does not say so without reason.
 */
static void check_owes(struct world *w)
{
    uint64_t oldest = backend_oldest(w);

    if (!svq_relay_owes(w->host.relay)) {
        model_check(w, backend_untaken_in_row(w), "owes() overlooks what cannot go back");
        return;
    }
    model_check(w, oldest < w->host.given, "owes() of what nobody else was given");
    model_check(w, oldest < w->queue.completed_count, "owes() of what nothing has overtaken");
}

/* A back-end is gone: what it was given, the next one is given again. */
static void note_given(struct world *w)
{
    struct svq_relay_state state;

    svq_relay_state(w->host.relay, &state);
    w->host.given = w->queue.relayed + state.in_flight;
}

static unsigned turn(struct world *w)
{
    struct host *h = &w->host;
    const char *reason = NULL;
    struct svq_relay_state state;
    unsigned bits;

    rings_begin(w);
    bits = svq_relay_poll(h->relay);
    svq_relay_fault(h->relay, &reason);
    model_check(w, !(bits & SVQ_RELAY_FAULT), "fault: %s", reason);
    if (bits & SVQ_RELAY_KICK_BACKEND)
        w->backend.kick = true;
    if (bits & SVQ_RELAY_CALL_GUEST)
        w->guest.call = true;
    account(w);
    /* It looks at every slot: often enough. */
    if (kit_percent(&w->rng, 25))
        check_owes(w);
    svq_relay_state(h->relay, &state);
    if (h->phase == PHASE_SHADOW && !(bits & SVQ_RELAY_BUSY) &&
        w->queue.relayed + state.in_flight < w->queue.offered)
        w->totals->waits++;
    return bits;
}

static bool arm(struct world *w)
{
    bool again;

    rings_begin(w);
    again = svq_relay_arm(w->host.relay);
    account(w);
    return again;
}

static void disarm(struct world *w)
{
    rings_begin(w);
    svq_relay_disarm(w->host.relay);
    account(w);
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

static enum next pick_next(struct world *w)
{
    unsigned draw = kit_below(&w->rng, 100);

    if (draw < 15)
        return NEXT_RESUMED;
    return w->same && draw < 85 ? NEXT_DIRECT : NEXT_RENEWED;
}

static void hold(struct world *w, bool on)
{
    svq_relay_hold(w->host.relay, on);
    w->host.held = on;
}

void host_toggle(struct world *w)
{
    struct host *h = &w->host;

    if (h->phase == PHASE_DIRECT) {
        h->phase = PHASE_TO_SHADOW;
        w->backend.stopping = true;
    } else if (h->phase == PHASE_SHADOW) {
        h->phase = PHASE_FROM_SHADOW;
        h->next = pick_next(w);
        h->patient = kit_percent(&w->rng, 50);
        if (!h->patient)
            hold(w, true);
        h->base_known = false;
    }
}

/* The guest-side index at which every chain before it has been taken, and no other. */
static void check_base(struct world *w, uint32_t base)
{
    const struct queue *q = &w->queue;
    uint16_t index = w->guest.driver->ops->next(w->guest.driver);
    uint32_t right;

    model_check(w, backend_untaken_in_row(w), "a hand-over leaves a chain behind");
    if (w->backend.redo_count)
        index = w->backend.redo[w->backend.redo_first]->start;
    else if (q->taken < q->offered)
        index = q->chains[q->taken & (q->room - 1)]->start;
    right = rings_base(w, index);
    /* A device with bases of 16 bits; the rest is the same. */
    if (w->backend.short_base && !w->host.relay)
        base |= base << 16;
    model_check(w, base == right, "the hand-over is at 0x%x, not 0x%x", base, right);
}

/* The back-end waits for its first kick. */
static void start_backend(struct world *w, uint32_t base)
{
    struct backend *b = &w->backend;

    backend_attach(w, true, base);
    b->awake = false;
    b->device->ops->kicks(b->device, true);
    b->kick = true;
}

static void start_shadow(struct world *w, uint32_t base)
{
    struct host *h = &w->host;

    h->inherited = false;
    h->held = false;
    h->given = 0;
    w->backend.next_slot = 0;
    h->relay = rings_relay(w, base);
    h->shared = svq_relay_shares(h->relay);
    h->relayed_before = w->queue.relayed = w->queue.completed_count;
    h->taken = w->queue.relayed;
    h->bytes = 0;
    h->hot = true;
    h->idle = false;
    h->backend_call = false;
    start_backend(w, rings_shadow_start(w));
    h->phase = PHASE_SHADOW;
}

static bool to_shadow_step(struct world *w)
{
    struct backend *b = &w->backend;
    uint32_t base;

    if (b->taken_count)
        return true; /* until the used index has caught up with the base */
    base = backend_stop(w);
    check_base(w, base);
    w->host.guest_kick = b->kick;
    b->kick = false;
    rings_forget(w, base);
    start_shadow(w, base);
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

/* The same back-end goes on with the same shadow. */
static void resume_shadow(struct world *w)
{
    struct host *h = &w->host;

    start_backend(w, svq_relay_resume_base(h->relay, h->base));
    hold(w, false);
    h->hot = true;
    h->idle = false;
    h->phase = PHASE_SHADOW;
    w->totals->resumptions++;
}

static void leave_shadow(struct world *w)
{
    struct host *h = &w->host;
    uint32_t base;

    if (kit_percent(&w->rng, 50))
        disarm(w);
    rings_begin(w);
    base = svq_relay_detach(h->relay);
    account(w);
    check_base(w, base);
    check_stats(w);
    model_check(w, w->queue.relayed == w->queue.completed_count, "a completion was left behind");
    svq_relay_free(h->relay);
    h->relay = NULL;
    log_stop(w);
    if (h->next == NEXT_RENEWED) {
        start_shadow(w, base);
        w->totals->renewals++;
        return;
    }
    /* In its first turn the back-end finds what waits; the guest may have been called for. */
    backend_attach(w, false, base);
    w->backend.kick = true;
    w->guest.call = true;
    h->phase = PHASE_DIRECT;
    w->totals->switches++;
}

/*
 * The back-end stopped before it took what its predecessor had taken, and a chain of the guest's
 * that is younger has been completed: no ring can say that. Let it go on.
 */
static void give_up_draining(struct world *w)
{
    model_check(w, !backend_untaken_in_row(w), "drained() never will be");
    model_check(w, svq_relay_owes(w->host.relay), "owes() does not say why");
    model_check(w, !w->host.patient, "owes() ended too early");
    resume_shadow(w);
    w->totals->stuck++;
}

static bool from_shadow_step(struct world *w)
{
    struct host *h = &w->host;
    unsigned bits = turn(w);
    int drained;

    if (!h->held) {
        if (svq_relay_owes(h->relay))
            w->totals->awaited++;
        else
            hold(w, true);
        return true;
    }
    if (!h->base_known) {
        if (kit_percent(&w->rng, 50))
            return true;
        /* It answers at once; what it has taken it may complete before or after. */
        h->base = backend_stop(w);
        h->base_known = true;
        return true;
    }
    drained = svq_relay_drained(h->relay, h->base);
    model_check(w, drained >= 0, "drained() refuses base 0x%x", h->base);
    if (!drained) {
        if (!(bits & SVQ_RELAY_BUSY) && !w->backend.taken_count)
            give_up_draining(w);
        return true;
    }
    model_check(w, !w->backend.taken_count, "drained with %u chains in the back-end",
                w->backend.taken_count);
    if (h->next == NEXT_RESUMED)
        resume_shadow(w);
    else
        leave_shadow(w);
    return true;
}

/* ---- Crashes ------------------------------------------------------------------------------- */

/* All that the back-end had completed is on its way to the guest, and the rest is in the ring. */
static void check_restart(struct world *w, unsigned taken, uint64_t resubmitted_before)
{
    const struct queue *q = &w->queue;
    uint64_t held_back = q->completed_count - q->relayed, resubmitted;
    struct svq_relay_state state;
    struct svq_relay_stats stats;

    svq_relay_state(w->host.relay, &state);
    svq_relay_stats(w->host.relay, &stats);
    resubmitted = stats.resubmitted - resubmitted_before;
    model_check(w, !held_back || (w->front.in_order && !w->back.in_order),
                "a restart leaves %llu completions behind", (unsigned long long)held_back);
    /* Beside those, a relay may have to take yet what its predecessor had. */
    model_check(w, resubmitted + held_back == state.in_flight || w->host.inherited,
                "not all chains are resubmitted");
    model_check(w, resubmitted >= taken && resubmitted + held_back <= state.in_flight,
                "%llu chains are resubmitted", (unsigned long long)resubmitted);
}

static void meet_fault(struct world *w)
{
    const char *reason;
    unsigned bits = svq_relay_poll(w->host.relay);

    model_check(w, bits & SVQ_RELAY_FAULT, "a fault of the back-end goes unseen");
    model_check(w, svq_relay_fault(w->host.relay, &reason) == SVQ_SIDE_BACKEND, "fault: %s",
                reason);
}

void host_crash(struct world *w)
{
    struct host *h = &w->host;
    unsigned taken = w->backend.taken_count;
    struct svq_relay_stats before;
    const char *reason;
    bool fault;

    if (h->phase != PHASE_SHADOW && h->phase != PHASE_FROM_SHADOW)
        return;
    rings_begin(w);
    fault = backend_crash(w);
    if (fault && kit_percent(&w->rng, 50))
        meet_fault(w);
    svq_relay_stats(h->relay, &before);
    rings_restart(w, h->relay);
    model_check(w, svq_relay_fault(h->relay, &reason) == SVQ_SIDE_NONE, "fault: %s", reason);
    account(w);
    check_restart(w, taken, before.resubmitted);
    note_given(w);
    check_owes(w);
    /* In mid-switch it goes on as before: the new back-end has to be stopped, too. */
    h->base_known = false;
    if (h->patient)
        hold(w, false);
    h->hot = true;
    h->idle = false;
    h->backend_call = false;
    w->guest.call = true;
    w->backend.next_slot = 0;
    start_backend(w, rings_shadow_start(w));
    w->totals->crashes++;
    w->totals->faulty_crashes += fault;
}

void host_die(struct world *w)
{
    struct host *h = &w->host;
    struct svq_relay_state state;
    unsigned listed;

    if (!w->tracked || (h->phase != PHASE_SHADOW && h->phase != PHASE_FROM_SHADOW))
        return;
    check_stats(w);
    svq_relay_state(h->relay, &state);
    listed = rings_listed(w);
    model_check(w, listed == state.in_flight, "the in-flight region lists %u chains, not %u",
                listed, state.in_flight);
    log_stop(w);
    svq_relay_free(h->relay);
    backend_lose(w);
    rings_begin(w);
    start_shadow(w, rings_base(w, w->first)); /* the region knows better */
    h->inherited = true;
    note_given(w);
    /* Those it finds in the region it looks into. */
    for (unsigned i = 0; i < w->backend.redo_count; i++)
        w->backend.redo[w->backend.redo_first + i]->read = true;
    h->taken = w->queue.taken;
    note_taken(w, h->given, true);
    h->taken = h->given;
    account(w);
    check_owes(w);
    model_check(w, rings_listed(w) == listed, "a relay that begins forgets chains");
    w->guest.call = true;
    w->totals->deaths++;
    /* A switch may begin before the relay has taken anything again. */
    if (kit_percent(&w->rng, 30))
        host_toggle(w);
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
    case PHASE_FROM_SHADOW:
        return from_shadow_step(w);
    }
    return false;
}

void host_init(struct world *w)
{
    w->host.phase = PHASE_DIRECT;
    if (w->same)
        backend_attach(w, false, rings_base(w, w->first));
    else {
        rings_forget(w, rings_base(w, w->first));
        start_shadow(w, rings_base(w, w->first));
    }
}

void host_free(struct world *w)
{
    log_free(w);
    if (w->host.relay) {
        check_stats(w);
        svq_relay_free(w->host.relay);
    }
}
