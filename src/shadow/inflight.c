/* SPDX-License-Identifier: BSD-3-Clause */
#include "shadow/inflight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/log.h"

uint32_t inflight_longest(unsigned guest_num)
{
    return guest_num + (guest_num > INFLIGHT_MIN_TABLE ? guest_num : INFLIGHT_MIN_TABLE);
}

/* All of them free, in a queue from 0 on. */
static struct split_desc *new_desc(unsigned num)
{
    struct split_desc *desc = calloc(num, sizeof(*desc));

    for (unsigned i = 0; desc && i < num; i++)
        desc[i].next = i + 1;
    return desc;
}

static struct inflight_rest *new_rest(unsigned num)
{
    struct inflight_rest *rest = aligned_alloc(_Alignof(struct inflight_rest), num * sizeof(*rest));

    for (unsigned i = 0; rest && i < num; i++)
        rest[i] = (struct inflight_rest){.block = TABLES_NONE};
    return rest;
}

int inflight_init(struct inflight *t, const struct inflight_config *config)
{
    unsigned num = config->num;
    int err;

    *t = (struct inflight){
        .mirrored = config->mirrored,
        .num = num,
        .max_table = inflight_longest(config->guest_num) - config->guest_num,
        .limit = 4 * num > INFLIGHT_MIN_LIMIT ? 4 * num : INFLIGHT_MIN_LIMIT,
        .free = num,
        .free_tail = num - 1,
    };
    t->desc = new_desc(num);
    t->chains = calloc(num, sizeof(*t->chains));
    t->rest = new_rest(num);
    t->order = calloc(num, sizeof(*t->order));
    if (t->desc && t->chains && t->rest && t->order)
        err = tables_init(&t->tables, &config->area, config->table_entries);
    else
        err = -ENOMEM;
    if (err)
        inflight_fini(t);
    return err;
}

void inflight_fini(struct inflight *t)
{
    for (unsigned i = 0; t->rest && i < t->num; i++)
        free(t->rest[i].table);
    free(t->desc);
    free(t->chains);
    free(t->rest);
    free(t->order);
    tables_fini(&t->tables);
    *t = (struct inflight){0};
}

bool inflight_grow_table(struct inflight *t, uint16_t head, uint32_t entries)
{
    struct inflight_rest *rest = &t->rest[head];
    struct split_desc *grown = realloc(rest->table, entries * sizeof(*grown));

    if (!grown)
        return false;
    t->allocated += entries - rest->table_room;
    rest->table = grown;
    rest->table_room = entries;
    return true;
}

void inflight_release_table(struct inflight *t, uint16_t head)
{
    struct inflight_rest *rest = &t->rest[head];

    t->held -= rest->table_len;
    rest->table_len = 0;
    if (rest->block != TABLES_NONE) {
        tables_put(&t->tables, rest->block);
        rest->block = TABLES_NONE;
        t->need_block = false;
    }
    /* Copies are kept for the next chain of this head, unless all heads together keep too much. */
    if (t->allocated > t->limit) {
        t->allocated -= rest->table_room;
        rest->table_room = 0;
        free(rest->table);
        rest->table = NULL;
    }
}

/* ---- Parts of what is in flight -------------------------------------------------------------- */

static void add_to_span(struct inflight_span *span, const struct inflight_chain *chain)
{
    span->chains++;
    span->slots += chain->slots;
    span->guest_slots += chain->guest_slots;
}

/* A head may have completed and come again: only its number tells. */

struct inflight_span inflight_newest(const struct inflight *t, unsigned limit)
{
    struct inflight_span span = {0};
    uint16_t place = t->order_next;

    while (span.chains < limit) {
        const struct inflight_chain *chain;

        place = place ? place - 1 : t->num - 1;
        chain = &t->chains[t->order[place]];
        if (!chain->slots || chain->done || chain->number != t->number - 1 - span.chains ||
            chain->number < t->fixed)
            break;
        add_to_span(&span, chain);
    }
    return span;
}

/* Of all chains in the present shadow ring, which one is it? A done one may be in none. */
static uint64_t place_in_ring(const struct inflight *t, uint16_t head)
{
    uint64_t number = t->chains[head].number;

    return number < t->fresh ? t->rest[head].resent : t->resent + (number - t->fresh);
}

struct inflight_span inflight_untaken(const struct inflight *t, bool in_slots, unsigned limit)
{
    uint64_t next = t->resent + (t->number - t->fresh);
    struct inflight_span span = {0};
    uint16_t place = t->order_next;

    for (unsigned n = t->count; n && (in_slots ? span.slots : span.chains) < limit; n--) {
        const struct inflight_chain *chain;
        uint16_t head;

        place = place ? place - 1 : t->num - 1;
        head = t->order[place];
        chain = &t->chains[head];
        if (!chain->slots)
            break;
        if (chain->number < t->fresh && t->rest[head].resent == INFLIGHT_NOT_RESENT)
            continue;
        if (chain->done || place_in_ring(t, head) != next - 1 - span.chains)
            break;
        add_to_span(&span, chain);
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
    return d->flags & SPLIT_DESC_F_WRITE ? log_mark_acquired(log, d->addr, d->len) : 0;
}

int inflight_log(const struct inflight *t, uint16_t head, struct svq_log *log)
{
    const struct inflight_chain *chain = &t->chains[head];
    uint16_t slots = chain->slots, i = head;

    if (!chain->plain && t->rest[head].table_len) {
        const struct split_desc *table = t->rest[head].table, *e;

        slots--; /* the last slot only refers to the table */
        for (e = table;; e = &table[e->next]) {
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

/* ---- Another shadow ring --------------------------------------------------------------------- */

struct taken {
    uint64_t number;
    uint16_t head;
};

/* All that inflight_restart() allocates. */
struct renewal {
    struct taken *taken; /* [count] in the guest's order */
    uint16_t *order;
    struct split_desc *desc; /* pooled: what takes the place of the table's */
    struct inflight_chain *chains;
    struct inflight_rest *rest;
};

static int by_number(const void *a, const void *b)
{
    uint64_t one = ((const struct taken *)a)->number, other = ((const struct taken *)b)->number;

    return one < other ? -1 : one > other;
}

/* `order` does not tell: chains that complete in any order leave it before their turn. */
static void list_taken(const struct inflight *t, struct taken *taken)
{
    unsigned count = 0;

    for (unsigned head = 0; head < t->num; head++)
        if (t->chains[head].slots)
            taken[count++] = (struct taken){t->chains[head].number, head};
    qsort(taken, count, sizeof(*taken), by_number);
}

static bool renewal_init(const struct inflight *t, struct renewal *r)
{
    *r = (struct renewal){
        .taken = calloc(t->count + 1u, sizeof(*r->taken)),
        .order = calloc(t->num, sizeof(*r->order)),
    };
    if (!t->mirrored) {
        r->desc = new_desc(t->num);
        r->chains = calloc(t->num, sizeof(*r->chains));
        r->rest = new_rest(t->num);
    }
    return r->taken && r->order && (t->mirrored || (r->desc && r->chains && r->rest));
}

static void renewal_fini(struct renewal *r)
{
    free(r->taken);
    free(r->order);
    free(r->desc);
    free(r->chains);
    free(r->rest);
}

/* A chain to its new slots, from `at` on. */
static void move_chain(struct inflight *t, struct renewal *r, uint16_t head, uint16_t at)
{
    uint16_t slot = head, last = at + t->chains[head].slots - 1;

    r->chains[at] = t->chains[head];
    r->rest[at] = t->rest[head];
    r->rest[at].last = last;
    for (unsigned i = at; i <= last; i++) {
        r->desc[i] = t->desc[slot];
        r->desc[i].next = i + 1;
        slot = t->desc[slot].next;
    }
    t->rest[head].table = NULL;
}

/* Private tables that nobody uses now stay for reuse, at whichever heads have none. */
static void move_spare_tables(struct inflight *t, struct renewal *r)
{
    unsigned to = 0;

    for (unsigned head = 0; head < t->num; head++) {
        if (!t->rest[head].table)
            continue;
        while (r->chains[to].slots)
            to++;
        r->rest[to].table = t->rest[head].table;
        r->rest[to].table_room = t->rest[head].table_room;
        to++;
    }
}

static void renumber(struct inflight *t, struct renewal *r)
{
    struct split_desc *desc = t->desc;
    struct inflight_chain *chains = t->chains;
    struct inflight_rest *rest = t->rest;
    uint16_t at = 0;

    for (unsigned i = 0; i < t->count; i++) {
        uint16_t head = r->taken[i].head;

        move_chain(t, r, head, at);
        r->taken[i].head = at;
        at += chains[head].slots;
    }
    move_spare_tables(t, r);
    t->free_head = at; /* unless none is free; as many are as before */
    t->free_tail = t->num - 1;
    t->desc = r->desc;
    t->chains = r->chains;
    t->rest = r->rest;
    r->desc = desc;
    r->chains = chains;
    r->rest = rest;
}

int inflight_restart(struct inflight *t)
{
    uint16_t *order = t->order;
    struct renewal r;

    if (!renewal_init(t, &r)) {
        renewal_fini(&r);
        return -ENOMEM;
    }
    list_taken(t, r.taken);
    if (!t->mirrored)
        renumber(t, &r);
    t->fresh = t->number;
    t->resent = 0;
    for (unsigned i = 0; i < t->count; i++) {
        uint16_t head = r.taken[i].head;

        r.order[i] = head;
        t->rest[head].resent = t->chains[head].done ? INFLIGHT_NOT_RESENT : t->resent++;
    }
    t->order = r.order;
    t->order_first = 0;
    t->order_next = t->count == t->num ? 0 : t->count;
    r.order = order;
    renewal_fini(&r);
    return 0;
}
