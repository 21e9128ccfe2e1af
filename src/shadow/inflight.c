/* SPDX-License-Identifier: BSD-3-Clause */
#include "shadow/inflight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint32_t inflight_longest(unsigned guest_num)
{
    return guest_num + (guest_num > INFLIGHT_MIN_TABLE ? guest_num : INFLIGHT_MIN_TABLE);
}

int inflight_init(struct inflight *t, const struct inflight_config *config)
{
    unsigned num = config->num;
    int err;

    *t = (struct inflight){
        .num = num,
        .max_table = inflight_longest(config->guest_num) - config->guest_num,
        .limit = 4 * num > INFLIGHT_MIN_LIMIT ? 4 * num : INFLIGHT_MIN_LIMIT,
        .free = num,
        .free_tail = num - 1,
    };
    t->desc = calloc(num, sizeof(*t->desc));
    t->busy = calloc(num, sizeof(*t->busy));
    t->chains = aligned_alloc(_Alignof(struct inflight_chain), num * sizeof(*t->chains));
    if (t->chains)
        memset(t->chains, 0, num * sizeof(*t->chains));
    t->order = calloc(num, sizeof(*t->order));
    if (t->desc && t->busy && t->chains && t->order)
        err = tables_init(&t->tables, &config->area, config->table_entries);
    else
        err = -ENOMEM;
    if (err) {
        inflight_fini(t);
        return err;
    }
    for (unsigned i = 0; i < num; i++) {
        t->desc[i].next = i + 1;
        t->chains[i].block = TABLES_NONE;
    }
    return 0;
}

void inflight_fini(struct inflight *t)
{
    for (unsigned i = 0; t->chains && i < t->num; i++)
        free(t->chains[i].table);
    free(t->desc);
    free(t->busy);
    free(t->chains);
    free(t->order);
    tables_fini(&t->tables);
    *t = (struct inflight){0};
}

bool inflight_reserve(struct inflight *t, struct inflight_chain *chain, uint32_t entries)
{
    struct split_desc *grown;

    if (entries <= chain->table_room)
        return true;
    grown = realloc(chain->table, entries * sizeof(*grown));
    if (!grown)
        return false;
    t->allocated += entries - chain->table_room;
    chain->table = grown;
    chain->table_room = entries;
    return true;
}

void inflight_release_table(struct inflight *t, struct inflight_chain *chain)
{
    t->held -= chain->table_len;
    chain->table_len = 0;
    if (chain->block != TABLES_NONE) {
        tables_put(&t->tables, chain->block);
        chain->block = TABLES_NONE;
        t->need_block = false;
    }
    /* Copies are kept for the next chain of this head, unless all heads together keep too much. */
    if (t->allocated > t->limit) {
        t->allocated -= chain->table_room;
        chain->table_room = 0;
        free(chain->table);
        chain->table = NULL;
    }
}

struct inflight_span inflight_newest(const struct inflight *t, bool in_slots, unsigned limit)
{
    struct inflight_span span = {0};
    uint16_t place = t->order_next;

    while (span.chains < t->count && (in_slots ? span.slots : span.chains) < limit) {
        const struct inflight_chain *chain;

        place = place ? place - 1 : t->num - 1;
        chain = &t->chains[t->order[place]];
        /* A head may have completed and come again: only its number tells. */
        if (!chain->slots || chain->done || chain->number != t->number - 1 - span.chains)
            break;
        span.chains++;
        span.slots += chain->slots;
        span.guest_slots += chain->guest_slots;
    }
    return span;
}

uint16_t inflight_batch(const struct inflight *t, uint32_t head, uint16_t limit)
{
    uint16_t place = t->order_first;

    for (uint16_t count = 1; count <= limit; count++) {
        if (t->order[place] == head)
            return count;
        place = inflight_step(t, place);
    }
    return 0;
}

static int log_writable(const struct split_desc *d, struct svq_log *log)
{
    return d->flags & SPLIT_DESC_F_WRITE ? svq_log_mark(log, d->addr, d->len) : 0;
}

int inflight_log(const struct inflight *t, uint16_t head, struct svq_log *log)
{
    const struct inflight_chain *chain = &t->chains[head];
    uint16_t slots = chain->slots, i = head;
    const struct split_desc *e;

    if (chain->table_len) {
        slots--; /* the last slot only refers to the table */
        for (e = chain->table;; e = &chain->table[e->next]) {
            if (log_writable(e, log) < 0)
                return -ERANGE;
            if (!(e->flags & SPLIT_DESC_F_NEXT))
                break;
        }
    }
    for (; slots; slots--) {
        if (log_writable(&t->desc[i], log) < 0)
            return -ERANGE;
        i = t->desc[i].next;
    }
    return 0;
}
