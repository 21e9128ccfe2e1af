/* SPDX-License-Identifier: BSD-3-Clause */
/* The guest: an application that offers chains whenever it likes, and a driver that sleeps. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* ---- Memory -------------------------------------------------------------------------------- */

static void pool_init(struct pool *pool, uint64_t base, uint32_t cell, uint32_t count)
{
    pool->base = base;
    pool->cell = cell;
    pool->count = count;
    pool->spare = malloc(count * sizeof(*pool->spare));
    kit_require(pool->spare != NULL);
    for (uint32_t i = 0; i < count; i++)
        pool->spare[i] = i;
}

/* Near the top of the stack, so that pages are used again soon; but not always the same. */
static uint64_t pool_get(struct world *w, struct pool *pool)
{
    uint32_t depth = pool->count < 64 ? pool->count : 64;
    uint32_t at = pool->count - 1 - kit_below(&w->rng, depth);
    uint32_t index = pool->spare[at];

    pool->spare[at] = pool->spare[--pool->count];
    return pool->base + (uint64_t)index * pool->cell;
}

static void pool_put(struct pool *pool, uint64_t gpa)
{
    pool->spare[pool->count++] = (uint32_t)((gpa - pool->base) / pool->cell);
}

static void put_memory(struct guest *g, uint64_t gpa)
{
    if (gpa >= MODEL_BIGS)
        pool_put(&g->bigs, gpa);
    else
        pool_put(&g->cells, gpa);
}

static struct kit_buf new_buf(struct world *w, bool write)
{
    struct guest *g = &w->guest;
    bool big = g->bigs.count > 16 && kit_percent(&w->rng, 3);
    uint32_t size = big ? MODEL_BIG : MODEL_CELL;
    uint32_t offset = kit_below(&w->rng, size), len = kit_below(&w->rng, size - offset + 1);

    if (kit_percent(&w->rng, 5))
        len = 0;
    return (struct kit_buf){pool_get(w, big ? &g->bigs : &g->cells) + offset, len, write};
}

/* ---- Offering ------------------------------------------------------------------------------ */

/* How many buffers: mostly few, sometimes as many as may be. */
static unsigned pick_count(struct world *w)
{
    unsigned limit = w->indirect ? MODEL_MAX_BUFS : w->num;
    unsigned draw = kit_below(&w->rng, 100), most;

    if (limit > MODEL_MAX_BUFS)
        limit = MODEL_MAX_BUFS;
    if (w->guest.cells.count < 2 * MODEL_MAX_BUFS)
        most = 1;
    else if (draw < w->guest.long_percent)
        most = draw ? 64 : MODEL_MAX_BUFS;
    else
        most = draw & 1 ? 3 : 6;
    return kit_between(&w->rng, 1, most < limit ? most : limit);
}

static unsigned pick_direct(struct world *w, unsigned count)
{
    unsigned direct = count;

    if (w->indirect && (count > w->num || kit_percent(&w->rng, 60)))
        direct = kit_percent(&w->rng, 70) ? 0 : kit_below(&w->rng, count);
    if (direct < count && direct + 1 > w->num)
        direct = w->num - 1;
    return direct;
}

static struct chain *new_chain(struct world *w, unsigned count)
{
    struct chain *chain = malloc(sizeof(*chain) + count * sizeof(chain->bufs[0]));
    unsigned readable = kit_below(&w->rng, count + 1);

    kit_require(chain != NULL);
    memset(chain, 0, sizeof(*chain));
    chain->number = w->queue.offered;
    chain->count = count;
    for (unsigned i = 0; i < count; i++) {
        chain->bufs[i] = new_buf(w, i >= readable);
        chain->bytes += chain->bufs[i].len;
        if (i >= readable)
            chain->writable += chain->bufs[i].len;
        model_fill(w, &chain->bufs[i], i >= readable ? 0 : model_value(chain, i, false));
    }
    return chain;
}

static void free_chain(struct world *w, struct chain *chain)
{
    for (unsigned i = 0; i < chain->count; i++)
        put_memory(&w->guest, chain->bufs[i].gpa);
    if (chain->table)
        put_memory(&w->guest, chain->table);
    free(chain);
}

static bool offer_one(struct world *w)
{
    struct queue *q = &w->queue;
    struct chain *chain;
    struct kit_chain offer;
    unsigned count;

    if (q->offered - q->reaped == w->num || q->offered == w->guest.goal)
        return false;
    count = pick_count(w);
    chain = new_chain(w, count);
    offer = (struct kit_chain){chain->bufs, count, pick_direct(w, count), 0, false, chain};
    if (offer.direct < count) {
        bool big = (count - offer.direct) * 16 > MODEL_CELL;

        if (big && w->guest.bigs.count == 0) {
            free_chain(w, chain);
            return false;
        }
        chain->table = pool_get(w, big ? &w->guest.bigs : &w->guest.cells);
        offer.table = chain->table;
        offer.scatter = kit_percent(&w->rng, 50);
    }
    if (!w->guest.driver->ops->add(w->guest.driver, &offer)) {
        free_chain(w, chain);
        return false;
    }
    q->chains[q->offered++ & (q->room - 1)] = chain;
    w->totals->buffers += count;
    return true;
}

static void offer_some(struct world *w)
{
    bool burst = kit_percent(&w->rng, w->guest.burst_percent);
    unsigned batch = burst ? w->num : kit_between(&w->rng, 1, 4);

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
        model_check(w, w->in_order, "chain %llu has no used entry", number);
    else if (chain->skipped)
        model_check(w, done->len == chain->writable, "chain %llu of a batch has %u bytes", number,
                    done->len);
    else
        model_check(w, done->len == chain->expected, "chain %llu has %u bytes instead of %u",
                    number, done->len, chain->expected);
    for (unsigned i = 0; i < chain->count; i++)
        model_check(w,
                    model_filled(w, &chain->bufs[i], model_value(chain, i, chain->bufs[i].write)),
                    "chain %llu, buffer %u has other bytes", number, i);
}

/* Return: something came. */
static bool reap_some(struct world *w, unsigned most)
{
    struct kit_done done;
    bool any = false;

    while (most--) {
        int result = w->guest.driver->ops->reap(w->guest.driver, &done);

        model_check(w, result >= 0, "the guest's used ring is broken");
        if (!result)
            break;
        check_done(w, done.token, &done);
        free_chain(w, done.token);
        w->queue.reaped++;
        any = true;
    }
    return any;
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
    if (reap_some(w, kit_percent(&w->rng, 50) ? w->num : kit_between(&w->rng, 1, 3)))
        return true;
    if (kit_percent(&w->rng, 50)) {
        g->driver->ops->interrupts(g->driver, true);
        g->awake = g->driver->ops->pending(g->driver);
    }
    return true;
}

void guest_init(struct world *w)
{
    pool_init(&w->guest.cells, MODEL_CELLS, MODEL_CELL, MODEL_CELL_COUNT);
    pool_init(&w->guest.bigs, MODEL_BIGS, MODEL_BIG, MODEL_BIG_COUNT);
    w->guest.awake = true;
}

void guest_free(struct world *w)
{
    free(w->guest.cells.spare);
    free(w->guest.bigs.spare);
}
