/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight table: the relay's private memory of what the guest handed over and the back-end
 * has not returned. It is the only source for everything decided after a chain was taken (which ids
 * may complete, how much was writable, which pages to log): neither ring is read again for that.
 *
 * A chain has slots, one for each descriptor that it has in the shadow ring, each with a private
 * copy of that descriptor; by the number of its first slot the back-end knows the chain. There are
 * two ways to come by slots:
 *
 *   mirrored   the slots are those of the guest's own descriptor table, so that heads, links and
 *              used ids are the same on both sides (both rings split, of one size)
 *   pooled     the slots come from a queue of free ones; chains that complete in order therefore
 *              find them in ring order again, as a split ring with IN_ORDER demands
 *
 * Descriptors here are in the split format, whatever the rings have.
 */
#ifndef SVQ_SHADOW_INFLIGHT_H
#define SVQ_SHADOW_INFLIGHT_H

#include "ring/specialised.h"
#include "ring/split.h"
#include "shadow/tables.h"

/* A chain may be as long as its ring; indirect tables as long as the field's drivers make them. */
#define INFLIGHT_MIN_TABLE 1024u

/* Indirect entries in flight of one queue before it waits: 1 MiB of copies. */
#define INFLIGHT_MIN_LIMIT 65536u

/* inflight_rest.resent of a chain that is done, and so not in the present shadow ring. */
#define INFLIGHT_NOT_RESENT UINT16_MAX

/*
 * What every turn asks of a chain; with its descriptor's copy 32 bytes, so that a ring's worth of
 * them stays in the caches. One descriptor and no table make a chain plain: then there is no more
 * to know.
 */
struct inflight_chain {
    uint64_t busy : 1;    /* mirrored: the slot belongs to a chain in flight, be it its first */
    uint64_t plain : 1;   /* in flight, and nothing of it is in inflight_rest */
    uint64_t done : 1;    /* completed, and waits until the older ones are */
    uint64_t unread : 1;  /* plain so far: nobody has looked into its descriptors; see unread.h */
    uint64_t number : 60; /* of all chains taken: tells apart chains that had the same head */
    uint16_t slots;       /* 0: no chain in flight at this head */
    uint16_t guest_slots; /* descriptors that it has in the guest's ring */
    uint16_t guest_id;    /* the guest's name of it: head, or buffer id */
    uint16_t entry;       /* packed guest: its place in the in-flight region */
};

static_assert(sizeof(struct inflight_chain) == 16, "four in a cache line");

/* The rest: of chains that are not plain, and for what is rare. Never two cache lines for one. */
struct inflight_rest {
    _Alignas(64) struct split_desc *table; /* private copy of the indirect table; kept for reuse */
    uint32_t table_room;                   /* entries that fit in `table` */
    uint32_t table_len; /* entries that this chain has there; 0: no indirect part */
    uint64_t bytes;     /* of all buffers */
    uint64_t writable;  /* of the device-writable ones */
    uint32_t block;     /* where its converted table is; TABLES_NONE: it has none */
    uint32_t len;       /* when done: what the back-end has written */
    uint16_t last;      /* pooled: the last of its slots */
    uint16_t resent;    /* its place in the present shadow ring, plain or not: inflight_restart() */
};

static_assert(sizeof(struct inflight_rest) == 64, "a cache line");

/* A region of guest memory. */
struct near {
    uint64_t end;
    uint64_t size;
};

struct inflight {
    /* Written once. */
    bool mirrored;
    uint16_t num;       /* slots */
    uint32_t max_table; /* entries of the longest table accepted */
    uint32_t limit;     /* indirect entries in flight, more or less, at most */

    uint16_t count;     /* chains in flight */
    uint16_t with;      /* of these, how many the back-end has not completed */
    uint16_t slots;     /* that those have */
    uint16_t free;      /* pooled: free slots */
    uint16_t free_head; /* oldest and newest of them, linked by `next` */
    uint16_t free_tail;
    unsigned hint;      /* svq_map_holds() memory */
    struct near near;   /* the region that held the last buffer; size 0: none yet */
    uint64_t number;    /* of the next chain */
    uint64_t fixed;     /* a chain of a lower number cannot go back to the guest's ring */
    uint64_t fresh;     /* one of a lower number was taken for an earlier shadow ring */
    uint16_t resent;    /* how many of those this one began with */
    uint32_t held;      /* indirect entries in flight */
    uint64_t allocated; /* room in all private tables, entries */

    /* What the next chain lacked; it is not looked at again before that is there. */
    uint32_t need;   /* free slots */
    bool need_block; /* a block of `tables` */

    struct split_desc *desc;       /* [num] private copies; free slots: links */
    struct inflight_chain *chains; /* [num] by first slot */
    struct inflight_rest *rest;    /* [num] the same */
    uint16_t *order;               /* [num] heads as they were taken, a ring */
    uint16_t order_first;          /* its oldest entry; meaningful when chains complete in order */
    uint16_t order_next;
    struct tables tables;
};

struct inflight_config {
    bool mirrored;
    unsigned guest_num;
    unsigned num;           /* of the shadow ring */
    uint32_t table_entries; /* of the area for converted tables; 0: none needed */
    struct svq_relay_tables area;
};

/* Entries of the longest table, direct descriptors before it included, of a guest's ring. */
uint32_t inflight_longest(unsigned guest_num);

/* Return: 0, -ENOMEM, or -EINVAL when the area is too small. */
int inflight_init(struct inflight *t, const struct inflight_config *config);
void inflight_fini(struct inflight *t);

/* Make room for a private copy of an indirect table. false: out of memory. */
bool inflight_grow_table(struct inflight *t, uint16_t head, uint32_t entries);

/* A part of the chains in flight. */
struct inflight_span {
    unsigned chains;
    unsigned slots;
    unsigned guest_slots;
};

/**
 * inflight_newest() - those of the chains taken last that can go back to where they were in the
 * guest's ring: all with the back-end, without a completed one among them. Up to `limit` chains.
 */
struct inflight_span inflight_newest(const struct inflight *t, unsigned limit);

/**
 * inflight_untaken() - those of the chains put last into the shadow ring that the back-end may not
 * have taken, since it has completed none of them. Up to `limit` chains, or chains with up to
 * `limit` slots.
 */
struct inflight_span inflight_untaken(const struct inflight *t, bool in_slots, unsigned limit);

/**
 * inflight_restart() - another shadow ring begins with what is in flight.
 *
 * The order in which the guest made the chains available becomes that of `order` from its start on,
 * and of the new ring, which gets those that are not `done`. Pooled slots are numbered anew in that
 * order, from 0 on: such are the ones that a split ring with IN_ORDER begins with. So heads change;
 * whatever else belongs to a chain moves along with it.
 *
 * Return: 0; -ENOMEM: nothing has changed.
 */
int inflight_restart(struct inflight *t);

/**
 * inflight_batch() - the back-end completes in order: how many chains does it complete when it
 * names `head`? Return: 1 to limit, or 0 when head is not among the `limit` oldest.
 */
uint16_t inflight_batch(const struct inflight *t, uint32_t head, uint16_t limit);

/* Log the writable part of a chain. Return: 0 or -ERANGE. */
int inflight_log(const struct inflight *t, uint16_t head, struct svq_log *log);

/*
 * May another chain be taken? A guest whose every head has a huge table must wait for completions
 * rather than take all of our memory.
 */
static inline bool inflight_has_room(const struct inflight *t)
{
    return t->held < t->limit && t->need <= t->free && !t->need_block;
}

static inline bool inflight_reserve(struct inflight *t, uint16_t head, uint32_t entries)
{
    return entries <= t->rest[head].table_room || inflight_grow_table(t, head, entries);
}

/* Is there a chain of that name that the back-end may complete? */
static inline bool inflight_outstanding(const struct inflight *t, uint32_t head)
{
    return head < t->num && t->chains[head].slots && !t->chains[head].done;
}

SPECIALISED uint16_t inflight_step(const struct inflight *t, uint16_t position)
{
    return position + 1 == t->num ? 0 : position + 1;
}

/* The chain that must complete next. Only while count is not 0, and chains complete in order. */
static inline uint16_t inflight_oldest(const struct inflight *t)
{
    return t->order[t->order_first];
}

/* What the chain's buffers hold together. */
static inline uint64_t inflight_bytes(const struct inflight *t, uint16_t head)
{
    return t->chains[head].plain ? t->desc[head].len : t->rest[head].bytes;
}

/* Of that, what the device may write. */
static inline uint64_t inflight_writable(const struct inflight *t, uint16_t head)
{
    if (!t->chains[head].plain)
        return t->rest[head].writable;
    return t->desc[head].flags & SPLIT_DESC_F_WRITE ? t->desc[head].len : 0;
}

/* A chain whose slots and private copies are complete is in flight from now on, */
SPECIALISED void inflight_add(struct inflight *t, uint16_t head, struct inflight_chain chain)
{
    chain.number = t->number++;
    chain.busy = true;
    t->chains[head] = chain;
    t->order[t->order_next] = head;
    t->order_next = inflight_step(t, t->order_next);
}

/* and so many, with so many slots, are counted. */
SPECIALISED void inflight_added(struct inflight *t, unsigned chains, unsigned slots)
{
    t->count += chains;
    t->with += chains;
    t->slots += slots;
}

/* The back-end has completed so many, with so many slots. */
SPECIALISED void inflight_returned(struct inflight *t, unsigned chains, unsigned slots)
{
    t->with -= chains;
    t->slots -= slots;
}

/* A batch of plain chains, taken or returned, has gone through a copy of the table. */
SPECIALISED void inflight_keep(struct inflight *t, const struct inflight *copy)
{
    t->count = copy->count;
    t->with = copy->with;
    t->slots = copy->slots;
    t->free = copy->free;
    t->free_head = copy->free_head;
    t->free_tail = copy->free_tail;
    t->number = copy->number;
    t->order_first = copy->order_first;
    t->order_next = copy->order_next;
}

/*
 * A slot's copy. By words, as it is read again soon: what was stored in pieces would keep a load of
 * the whole waiting.
 */
static inline void inflight_write_desc(struct inflight *t, uint16_t slot,
                                       const struct split_desc *d)
{
    t->desc[slot].addr = d->addr;
    t->desc[slot].rest = d->rest;
}

/* ---- Pooled slots ------------------------------------------------------------------------ */

/* The first free slot is taken; only while there is one. */
static inline uint16_t inflight_get_slot(struct inflight *t)
{
    uint16_t slot = t->free_head;

    t->free_head = t->desc[slot].next;
    t->free--;
    return slot;
}

/* A chain's slots are the last ones to get again. */
SPECIALISED void inflight_put_slots(struct inflight *t, uint16_t first, uint16_t last,
                                    uint16_t count)
{
    if (t->free)
        t->desc[t->free_tail].next = first;
    else
        t->free_head = first;
    t->free_tail = last;
    t->free += count;
}

/* ---- Release ----------------------------------------------------------------------------- */

/* What a chain has beside its slots. */
void inflight_release_table(struct inflight *t, uint16_t head);

/* The guest has a plain chain back. mirrored: known at compile time. */
SPECIALISED void inflight_release_plain(struct inflight *t, uint16_t head, const bool mirrored)
{
    if (!mirrored)
        inflight_put_slots(t, head, head, 1);
    t->chains[head] = (struct inflight_chain){0};
    t->order_first = inflight_step(t, t->order_first);
    t->count--;
}

/* One of another kind: its slots are free again. What remains is inflight_release_table(). */
SPECIALISED void inflight_release_slots(struct inflight *t, uint16_t head, const bool mirrored)
{
    const struct inflight_chain chain = t->chains[head];
    uint16_t slot = head;

    t->chains[head] = (struct inflight_chain){0};
    for (unsigned n = mirrored ? chain.slots - 1 : 0; n; n--) {
        slot = t->desc[slot].next;
        t->chains[slot].busy = false;
    }
    if (!mirrored)
        inflight_put_slots(t, head, t->rest[head].last, chain.slots);
    t->order_first = inflight_step(t, t->order_first);
    t->count--;
}

/* The guest has the chain back. */
static inline void inflight_release(struct inflight *t, uint16_t head, const bool mirrored)
{
    if (t->chains[head].plain) {
        inflight_release_plain(t, head, mirrored);
        return;
    }
    inflight_release_slots(t, head, mirrored);
    if (t->rest[head].table_len)
        inflight_release_table(t, head);
}

#endif
