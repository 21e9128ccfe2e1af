/* SPDX-License-Identifier: BSD-3-Clause */
/* The guest: an application that offers chains whenever it likes, and a driver that sleeps. */
#include "model.h"

/* ---- Offering ------------------------------------------------------------------------------ */

/* A chain that the ring has no room for is offered again: else the long ones never would be. */
static bool offer_one(struct world *w)
{
    struct queue *q = &w->queue;
    struct guest *g = &w->guest;
    struct chain *chain = g->wish;
    struct kit_chain offer;

    if (q->offered - q->reaped == w->front.num || q->offered == g->goal)
        return false;
    if (!chain)
        chain = chain_new(w);
    g->wish = chain;
    if (!chain)
        return false;
    offer = (struct kit_chain){chain->bufs,  chain->count,   chain->direct,
                               chain->table, chain->scatter, chain};
    chain->start = g->driver->ops->next(g->driver);
    if (!g->driver->ops->add(g->driver, &offer))
        return false;
    g->wish = NULL;
    for (unsigned i = 0; i < chain->count; i++)
        chain_fill(w, chain, i, false);
    q->chains[q->offered++ & (q->room - 1)] = chain;
    w->totals->buffers += chain->count;
    return true;
}

static void offer_some(struct world *w)
{
    bool burst = kit_percent(&w->rng, w->guest.burst_percent);
    unsigned batch = burst ? w->front.num : kit_between(&w->rng, 1, 4);

    while (batch && offer_one(w))
        batch--;
    if (w->guest.driver->ops->publish(w->guest.driver)) {
        w->totals->kicks++;
        host_guest_kicks(w);
    }
}

/* ---- Reaping ------------------------------------------------------------------------------- */

static void check_done(struct world *w, struct chain *chain, const struct kit_done *done)
{
    unsigned long long number = chain->number;

    model_check(w, chain->state == CHAIN_COMPLETED, "chain %llu comes back before its time",
                number);
    if (done->skipped)
        model_check(w, w->front.in_order, "chain %llu has no used entry", number);
    else if (chain->skipped)
        model_check(w, done->len == chain->writable, "chain %llu of a batch has %u bytes", number,
                    done->len);
    else
        model_check(w, done->len == chain->expected, "chain %llu has %u bytes instead of %u",
                    number, done->len, chain->expected);
    for (unsigned i = 0; i < chain->count; i++)
        model_check(w, chain_filled(w, chain, i, chain->bufs[i].write),
                    "chain %llu, buffer %u has other bytes", number, i);
}

/* Return: something came. */
static bool reap_some(struct world *w, unsigned most)
{
    struct kit_driver *driver = w->guest.driver;
    struct kit_done done;
    bool any = false;

    while (most--) {
        int result = driver->ops->reap(driver, &done);

        model_check(w, result >= 0, "the guest's ring is broken: %s", driver->broken);
        if (!result)
            break;
        check_done(w, done.token, &done);
        chain_free(w, done.token);
        w->queue.reaped++;
        any = true;
    }
    return any;
}

static void fall_asleep(struct world *w)
{
    struct kit_driver *driver = w->guest.driver;

    if (kit_percent(&w->rng, w->guest.delay_percent))
        driver->ops->delay(driver, kit_below(&w->rng, 100));
    else
        driver->ops->interrupts(driver, true);
    w->guest.awake = driver->ops->pending(driver);
}

bool guest_step(struct world *w)
{
    struct guest *g = &w->guest;

    if (!w->quiescing && kit_percent(&w->rng, 50)) {
        offer_some(w);
        return true;
    }
    if (!g->awake) {
        if (!g->call)
            return false;
        g->call = false;
        g->awake = true;
        if (kit_percent(&w->rng, 80))
            g->driver->ops->interrupts(g->driver, false);
        return true;
    }
    if (reap_some(w, kit_percent(&w->rng, 50) ? w->front.num : kit_between(&w->rng, 1, 3)))
        return true;
    if (kit_percent(&w->rng, 50))
        fall_asleep(w);
    return true;
}

void guest_init(struct world *w)
{
    pools_init(&w->guest);
    w->guest.awake = true;
}

void guest_free(struct world *w)
{
    if (w->guest.wish)
        chain_free(w, w->guest.wish);
    pools_free(&w->guest);
}
