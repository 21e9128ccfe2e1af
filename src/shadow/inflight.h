/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight table: the relay's private memory of what the guest handed over and the back-end
 * has not returned. It is the only source for everything decided after a chain was taken (which ids
 * may complete, how much was writable, which pages to log): neither ring is read again for that.
 *
 * Slots mirror the guest's descriptor table, so a chain keeps its head's number all the way.
 */
#ifndef SVQ_SHADOW_INFLIGHT_H
#define SVQ_SHADOW_INFLIGHT_H

#include "ring/split.h"

/* A chain may be as long as its ring; indirect tables as long as the field's drivers make them. */
#define INFLIGHT_MIN_TABLE 1024u

/* Indirect entries in flight of one queue before it waits: 1 MiB of copies. */
#define INFLIGHT_MIN_LIMIT 65536u

struct inflight_chain {
    struct split_desc *table; /* private copy of the indirect table; kept for reuse */
    uint32_t table_room;      /* entries that fit in `table` */
    uint32_t table_len;       /* entries that this chain has there; 0: no indirect part */
    uint64_t bytes;           /* of all buffers */
    uint64_t writable;        /* of the device-writable ones */
    uint16_t position;        /* in the shadow's available ring: its index when it was put there */
    uint16_t slots;           /* descriptor slots held; 0: no chain in flight at this head */
};

struct inflight {
    uint16_t num;
    uint16_t count;                /* chains in flight */
    bool indirect;                 /* INDIRECT_DESC was negotiated */
    unsigned hint;                 /* svq_map_holds() memory */
    uint32_t max_table;            /* entries of the longest table accepted */
    uint32_t limit;                /* indirect entries in flight, more or less, at most */
    uint32_t held;                 /* indirect entries in flight */
    uint64_t allocated;            /* room in all tables, entries */
    struct split_desc *desc;       /* [num] private copies */
    bool *busy;                    /* [num] slot belongs to a chain in flight */
    struct inflight_chain *chains; /* [num] by head */
    uint16_t *order;               /* [num] heads as they were taken, a ring */
    uint16_t order_first;          /* its oldest entry; meaningful only under IN_ORDER */
    uint16_t order_next;
};

int inflight_init(struct inflight *t, unsigned num, bool indirect);
void inflight_fini(struct inflight *t);

/**
 * inflight_take() - copy the chain at `head` of a guest's table, check the copy, and write it to
 * the same slots of the shadow table.
 *
 * Return: NULL, or what is wrong with the chain (static text); then nothing is in flight for it.
 */
const char *inflight_take(struct inflight *t, const struct svq_map *map,
                          const struct split_desc *guest, struct split_desc *shadow, uint16_t head,
                          uint16_t position);

/**
 * inflight_newest() - how many of the chains put last are all still in flight, without a completed
 * one among them; at most `limit`.
 * @next: the index after the newest one
 */
uint16_t inflight_newest(const struct inflight *t, uint16_t next, uint16_t limit);

/**
 * inflight_batch() - IN_ORDER: how many chains does a used entry complete that names `head`?
 * Return: 1 to limit, or 0 when head is not among the `limit` oldest.
 */
uint16_t inflight_batch(const struct inflight *t, uint32_t head, uint16_t limit);

/*
 * May another chain be taken? A guest whose every head has a huge table must wait for completions
 * rather than take all of our memory.
 */
static inline bool inflight_has_room(const struct inflight *t)
{
    return t->held < t->limit;
}

static inline bool inflight_outstanding(const struct inflight *t, uint32_t head)
{
    return head < t->num && t->chains[head].slots;
}

/* IN_ORDER: the chain that must complete next. Only while count is not 0. */
static inline uint16_t inflight_oldest(const struct inflight *t)
{
    return t->order[t->order_first];
}

/* Log the writable part of an outstanding chain. Return: 0 or -ERANGE. */
int inflight_log(const struct inflight *t, uint16_t head, struct svq_log *log);

/* The chain has completed: its slots are free again. */
void inflight_release(struct inflight *t, uint16_t head);

#endif
