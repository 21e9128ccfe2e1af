/* SPDX-License-Identifier: BSD-3-Clause */
/* Dirty logs, started, harvested, swapped and stopped at any moment, and what must be in them. */
#include <string.h>

#include "model.h"

void log_expect(struct world *w, const struct chain *chain)
{
    if (!w->host.logging)
        return;
    for (unsigned i = 0; i < chain->count; i++)
        if (chain->bufs[i].write)
            model_set_range(w->host.expected, chain->bufs[i].gpa, chain->bufs[i].len);
    w->totals->logged_chains++;
}

/* The log of the ring lies between what must and what may be. */
static void check_ring(struct world *w)
{
    struct host *h = &w->host;
    static uint8_t may[(MODEL_PAGES + 7) / 8];

    memset(may, 0, RINGS_END_PAGE / 8);
    rings_written(w, h->expected, may);
    for (uint64_t page = RINGS_FIRST_PAGE; page < RINGS_END_PAGE; page++) {
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
}

/* The log of the buffers is exact. */
void log_check(struct world *w)
{
    struct host *h = &w->host;

    if (!h->logging)
        return;
    if (h->log_ring)
        check_ring(w);
    if (!memcmp(h->expected, h->log.bits, h->log.size))
        return;
    for (uint64_t page = 0; page < MODEL_PAGES; page++) {
        bool must = h->expected[page / 8] & (1u << (page % 8));

        model_check(w, kit_log_test(&h->log, page) == must, "page 0x%llx is %s",
                    (unsigned long long)page, must ? "not logged" : "logged without need");
    }
}

static void drop_old(struct world *w)
{
    struct host *h = &w->host;

    if (!h->has_old)
        return;
    model_check(w, !memcmp(h->old.bits, h->old_bits, h->old.size),
                "a log is written to after it was swapped out");
    kit_log_free(&h->old);
    h->has_old = false;
}

void log_stop(struct world *w)
{
    struct host *h = &w->host;

    if (!h->logging)
        return;
    drop_old(w);
    h->old = h->log;
    memcpy(h->old_bits, h->old.bits, h->old.size);
    h->has_old = true;
    h->logging = false;
}

static void start(struct world *w)
{
    struct host *h = &w->host;
    struct svq_relay_log log;

    log_stop(w);
    kit_log_init(&h->log, MODEL_PAGES);
    memset(h->expected, 0, sizeof(h->expected));
    h->logging = true;
    h->log_ring = kit_percent(&w->rng, 80);
    log = rings_log(w);
    svq_relay_set_log(h->relay, &log);
}

void log_change(struct world *w)
{
    static const struct svq_relay_log none;
    struct host *h = &w->host;
    unsigned draw = kit_below(&w->rng, 10);

    if (h->phase != PHASE_SHADOW)
        return;
    if (h->logging && draw < 6) { /* the VMM harvests */
        kit_log_clear(&h->log);
        memset(h->expected, 0, sizeof(h->expected));
    } else if (draw < 9) {
        start(w);
    } else if (h->logging) {
        log_stop(w);
        svq_relay_set_log(h->relay, &none);
    }
}

void log_free(struct world *w)
{
    log_stop(w);
    drop_old(w);
}
