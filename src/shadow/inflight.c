/* SPDX-License-Identifier: BSD-3-Clause */
#include "shadow/inflight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A chain being taken; moves into the table only when it is whole and good. */
struct draft {
    uint64_t bytes;
    uint64_t writable;
    uint32_t count; /* buffers, indirect ones included */
    uint16_t slots;
    bool write_seen;
};

static uint16_t order_step(const struct inflight *t, uint16_t position)
{
    return position + 1 == t->num ? 0 : position + 1;
}

int inflight_init(struct inflight *t, unsigned num, bool indirect)
{
    *t = (struct inflight){
        .num = num,
        .indirect = indirect,
        .max_table = num > INFLIGHT_MIN_TABLE ? num : INFLIGHT_MIN_TABLE,
        .limit = 4 * num > INFLIGHT_MIN_LIMIT ? 4 * num : INFLIGHT_MIN_LIMIT,
    };
    t->desc = calloc(num, sizeof(*t->desc));
    t->busy = calloc(num, sizeof(*t->busy));
    t->chains = calloc(num, sizeof(*t->chains));
    t->order = calloc(num, sizeof(*t->order));
    if (t->desc && t->busy && t->chains && t->order)
        return 0;
    inflight_fini(t);
    return -ENOMEM;
}

void inflight_fini(struct inflight *t)
{
    for (unsigned i = 0; t->chains && i < t->num; i++)
        free(t->chains[i].table);
    free(t->desc);
    free(t->busy);
    free(t->chains);
    free(t->order);
    *t = (struct inflight){0};
}

/* One buffer of a chain, direct or from a table: the rules of virtio 1.3 section 2.7.4.2. */
static const char *check_buffer(struct inflight *t, const struct svq_map *map, struct draft *draft,
                                const struct split_desc *d)
{
    if (d->flags & SPLIT_DESC_F_WRITE) {
        draft->write_seen = true;
        draft->writable += d->len;
    } else if (draft->write_seen) {
        return "readable descriptor after a writable one";
    }
    draft->bytes += d->len;
    if (draft->bytes > UINT64_C(1) << 32)
        return "chain of more than 2^32 bytes";
    if (d->len && !svq_map_holds(map, d->addr, d->len, &t->hint))
        return "buffer outside guest memory";
    draft->count++;
    return NULL;
}

/* Make room for a private copy of an indirect table. */
static bool table_reserve(struct inflight *t, struct inflight_chain *chain, uint32_t entries)
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

/*
 * The indirect table that `d` refers to (virtio 1.3 section 2.7.5.3). The back-end will read the
 * guest's own table: a guest that rewrites it meanwhile deceives only itself, because what we
 * decide later rests on this copy.
 */
static const char *take_table(struct inflight *t, const struct svq_map *map, struct draft *draft,
                              struct inflight_chain *chain, const struct split_desc *d)
{
    uint32_t entries = d->len / sizeof(struct split_desc);
    const struct split_desc *shared;
    uint32_t i = 0, seen = 0;

    if (!t->indirect)
        return "INDIRECT descriptor although it was not negotiated";
    if (d->flags & SPLIT_DESC_F_NEXT)
        return "INDIRECT descriptor with NEXT";
    if (!d->len || d->len % sizeof(struct split_desc))
        return "indirect table of a length that is not a multiple of 16";
    if (entries > t->max_table)
        return "indirect table longer than any chain may be";
    shared = svq_map_gpa(map, d->addr, d->len);
    if (!shared)
        return "indirect table outside guest memory";
    if (!table_reserve(t, chain, entries))
        return "out of memory for an indirect table";

    memcpy(chain->table, shared, d->len);
    for (;;) {
        const struct split_desc *e = &chain->table[i];
        const char *fault;

        if (e->flags & SPLIT_DESC_F_INDIRECT)
            return "nested indirect table";
        fault = check_buffer(t, map, draft, e);
        if (fault)
            return fault;
        if (!(e->flags & SPLIT_DESC_F_NEXT))
            break;
        if (++seen >= entries)
            return "indirect table loops";
        i = e->next;
        if (i >= entries)
            return "indirect table's next is out of range";
    }
    chain->table_len = entries;
    return NULL;
}

static const char *take_slots(struct inflight *t, const struct svq_map *map, struct draft *draft,
                              struct inflight_chain *chain, const struct split_desc *guest,
                              uint16_t head)
{
    uint16_t i = head;

    for (;;) {
        struct split_desc *d;

        if (t->busy[i])
            return "descriptor is in flight already, or its chain loops";
        d = &t->desc[i];
        *d = split_read_desc(&guest[i]);
        t->busy[i] = true;
        draft->slots++;
        if (d->flags & SPLIT_DESC_F_INDIRECT)
            return take_table(t, map, draft, chain, d);

        const char *fault = check_buffer(t, map, draft, d);

        if (fault)
            return fault;
        if (!(d->flags & SPLIT_DESC_F_NEXT))
            return NULL;
        if (d->next >= t->num)
            return "next descriptor is out of range";
        i = d->next;
    }
}

/* Give back the first `slots` slots of the chain at head. */
static void free_slots(struct inflight *t, uint16_t head, uint16_t slots)
{
    uint16_t i = head;

    for (; slots; slots--) {
        t->busy[i] = false;
        i = t->desc[i].next;
    }
}

const char *inflight_take(struct inflight *t, const struct svq_map *map,
                          const struct split_desc *guest, struct split_desc *shadow, uint16_t head,
                          uint16_t position)
{
    struct inflight_chain *chain = &t->chains[head];
    struct draft draft = {0};
    const char *fault = take_slots(t, map, &draft, chain, guest, head);
    uint16_t i = head;

    if (fault) {
        free_slots(t, head, draft.slots);
        return fault;
    }
    for (unsigned n = draft.slots; n; n--) {
        split_write_desc(&shadow[i], &t->desc[i]);
        i = t->desc[i].next;
    }
    chain->bytes = draft.bytes;
    chain->writable = draft.writable;
    chain->position = position;
    chain->slots = draft.slots;
    t->held += chain->table_len;
    t->order[t->order_next] = head;
    t->order_next = order_step(t, t->order_next);
    t->count++;
    return NULL;
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

void inflight_release(struct inflight *t, uint16_t head)
{
    struct inflight_chain *chain = &t->chains[head];

    free_slots(t, head, chain->slots);
    t->held -= chain->table_len;
    chain->slots = 0;
    chain->table_len = 0;
    /* Copies are kept for the next chain of this head, unless all heads together keep too much. */
    if (t->allocated > t->limit) {
        t->allocated -= chain->table_room;
        chain->table_room = 0;
        free(chain->table);
        chain->table = NULL;
    }
    t->order_first = order_step(t, t->order_first);
    t->count--;
}

uint16_t inflight_newest(const struct inflight *t, uint16_t next, uint16_t limit)
{
    uint16_t place = t->order_next, count = 0;

    while (count < limit) {
        const struct inflight_chain *chain;

        place = place ? place - 1 : t->num - 1;
        chain = &t->chains[t->order[place]];
        /* A head may have completed and come again: only its position tells. */
        if (!chain->slots || chain->position != (uint16_t)(next - 1 - count))
            break;
        count++;
    }
    return count;
}

uint16_t inflight_batch(const struct inflight *t, uint32_t head, uint16_t limit)
{
    uint16_t place = t->order_first;

    for (uint16_t count = 1; count <= limit; count++) {
        if (t->order[place] == head)
            return count;
        place = order_step(t, place);
    }
    return 0;
}
