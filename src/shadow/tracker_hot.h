/* SPDX-License-Identifier: BSD-3-Clause */
/* What the tracker does for every chain: see tracker.h for what it is, tracker.c for the order. */
#ifndef SVQ_SHADOW_TRACKER_HOT_H
#define SVQ_SHADOW_TRACKER_HOT_H

#include "shadow/region.h"
#include "shadow/tracker.h"

/* What comes after it is not stored before what comes before it; see tracker.h. */
#define STEP() __atomic_signal_fence(__ATOMIC_SEQ_CST)

struct entry_links {
    uint16_t next;
    uint16_t last;
};

struct tracker {
    union {
        void *part;
        struct region_split *split;
        struct region_packed *packed;
    };
    uint64_t counter;

    /* Split: heads of the batch that is to be published. */
    uint16_t *batch;
    unsigned batch_count;

    /* Packed: our own copy of all links. */
    struct entry_links *links;
    uint16_t free_head;

    /* The predecessor's chains. */
    relay_step_fn *forward; /* the relay's own */
    struct region_chain *chains;
    unsigned count;
    unsigned taken;
    void *memory; /* of a ring that holds them in the guest ring's positions */
    union {       /* that one; the guest's while it is in the guest's place */
        struct split_avail *avail;
        struct packed_desc *desc;
    };
};

#define PART_STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

/* ---- Packed: the free list ------------------------------------------------------------------- */

/* Entries from `first` to `last`, which are linked, become free. */
static inline void tracker_free_entries(struct tracker *tracker, uint16_t first, uint16_t last)
{
    PART_STORE(tracker->packed->entry[last].next, tracker->free_head);
    STEP();
    PART_STORE(tracker->packed->free_head, first);
    tracker->links[last].next = tracker->free_head;
    tracker->free_head = first;
}

static inline void tracker_store_used(struct tracker *tracker, struct packed_place used,
                                      struct packed_place old)
{
    union region_used now = {
        {.idx = used.idx, .old_idx = old.idx, .wrap = used.wrap, .old_wrap = old.wrap}};

    /* One word: index and wrap counter must not be seen apart. */
    PART_STORE(tracker->packed->used.word, now.word);
}

/* ---- Chains come ----------------------------------------------------------------------------- */

static inline void tracker_mark_split(struct tracker *tracker, uint16_t head)
{
    struct region_split_entry *e = &tracker->split->entry[head];

    PART_STORE(e->counter, tracker->counter);
    STEP();
    PART_STORE(e->inflight, 1);
    tracker->counter++;
}

/* A chain of one descriptor. Return: its entry. */
static inline uint16_t tracker_mark_one(struct tracker *tracker, const struct packed_desc *d)
{
    struct region_packed *part = tracker->packed;
    uint16_t at = tracker->free_head, next = tracker->links[at].next;
    struct region_packed_entry *e = &part->entry[at];

    PART_STORE(e->desc.addr, d->addr);
    PART_STORE(e->desc.len, d->len);
    PART_STORE(e->desc.flags, d->flags);
    PART_STORE(e->desc.id, d->id);
    PART_STORE(e->num, 1);
    PART_STORE(e->last, at);
    PART_STORE(e->counter, tracker->counter);
    PART_STORE(e->inflight, 1);
    STEP();
    PART_STORE(part->free_head, next);
    STEP();
    PART_STORE(part->old_free_head, next);
    tracker->links[at].last = at;
    tracker->free_head = next;
    tracker->counter++;
    return at;
}

/* ---- Chains go ------------------------------------------------------------------------------- */

/* The chain's used entry was written; the guest sees it when its batch is published. Split. */
static inline void tracker_put_split(struct tracker *tracker, uint16_t head)
{
    struct region_split *part = tracker->split;
    unsigned count = tracker->batch_count++;

    /* The first one's is never followed. */
    PART_STORE(part->entry[head].next, count ? tracker->batch[count - 1] : 0);
    STEP();
    PART_STORE(part->last_batch, head);
    tracker->batch[count] = head;
}

/* Instead of packed_device_put(): the guest sees the used descriptor at once. */
static inline void tracker_put_packed(struct tracker *tracker, struct packed_ring *r,
                                      const struct inflight_chain *chain, uint32_t len)
{
    uint16_t flags = packed_used_flags(r->used.wrap) | (len ? PACKED_DESC_F_WRITE : 0);
    struct packed_desc *d = &r->desc[r->used.idx];
    struct packed_place old = r->used;
    uint16_t entry = chain->entry;

    PACKED_STORE(d->len, len);
    PACKED_STORE(d->id, chain->guest_id);
    r->batch += chain->guest_slots;
    packed_advance(r, &r->used, chain->guest_slots);
    tracker_free_entries(tracker, entry, tracker->links[entry].last);
    STEP();
    tracker_store_used(tracker, r->used, old);
    /* Release: pairs with the driver's acquire of these flags; id, len and data before them. */
    __atomic_store_n(&d->flags, flags, __ATOMIC_RELEASE);
    STEP();
    PART_STORE(tracker->packed->entry[entry].inflight, 0);
    STEP();
    PART_STORE(tracker->packed->old_free_head, tracker->free_head);
    STEP();
    tracker_store_used(tracker, r->used, r->used);
    STEP();
}

#endif
