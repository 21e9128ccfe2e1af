/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a part says at any instant (region.h has its layout), by the specification:
 *
 *   split    A chain is in flight when its head's mark is set, unless it is among the last batch:
 *            the heads linked from last_batch, as many as the ring's used index is ahead of ours.
 *   packed   A chain is in flight when its first entry's mark is set, unless that is in the free
 *            list. List and used index exist twice: the old ones count, unless they differ and the
 *            guest has got the used descriptor at the old index.
 *
 * Either way one store makes a chain taken or used, and all before it can be cut short unharmed.
 *
 * A packed ring's used descriptors are published one by one. In a batch that is published by its
 * first descriptor the others are in the ring already; were the process killed then, they would
 * come true when its successor fills the gap before them.
 *
 * What a predecessor left is taken from a private ring, which has the place of the guest's while it
 * lasts. In its positions the available index goes on to where the guest's really is.
 */
#include "shadow/tracker_hot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shadow/region.h"

/* ---- Chains come ----------------------------------------------------------------------------- */

/* The guest may have rewritten its descriptors since they were checked: that deceives itself. */
uint16_t tracker_mark_packed(struct tracker *tracker, const struct packed_ring *r,
                             struct packed_place place, uint16_t count, uint16_t id)
{
    struct region_packed *part = tracker->packed;
    uint16_t entry = tracker->free_head, at = entry, last = at;
    struct region_packed_entry *first = &part->entry[at];

    for (unsigned left = count; left; left--) {
        struct packed_desc d = packed_read_desc(&r->desc[place.idx]);
        struct region_packed_entry *e = &part->entry[at];
        uint16_t flags = d.flags & ~PACKED_DESC_F_NEXT;

        PART_STORE(e->desc.addr, d.addr);
        PART_STORE(e->desc.len, d.len);
        PART_STORE(e->desc.flags, left > 1 ? flags | PACKED_DESC_F_NEXT : flags);
        PART_STORE(e->desc.id, left > 1 ? d.id : id);
        packed_advance(r, &place, 1);
        last = at;
        at = tracker->links[at].next;
    }
    PART_STORE(first->num, count);
    PART_STORE(first->last, last);
    PART_STORE(first->counter, tracker->counter);
    PART_STORE(first->inflight, 1);
    STEP();
    PART_STORE(part->free_head, at);
    STEP();
    PART_STORE(part->old_free_head, at);
    tracker->links[entry].last = last;
    tracker->free_head = at;
    tracker->counter++;
    return entry;
}

/* The guest has not got it, and never will from us. */
static void unmark(const struct svq_relay *relay, uint16_t entry)
{
    struct tracker *tracker = relay->tracker;

    if (relay->guest.is_packed) {
        tracker_free_entries(tracker, entry, tracker->links[entry].last);
        STEP();
        PART_STORE(tracker->packed->old_free_head, tracker->free_head);
        STEP();
        PART_STORE(tracker->packed->entry[entry].inflight, 0);
    } else {
        PART_STORE(tracker->split->entry[entry].inflight, 0);
    }
    STEP();
}

/* ---- Chains go ------------------------------------------------------------------------------- */

void tracker_published_split(struct svq_relay *relay)
{
    struct tracker *tracker = relay->tracker;

    STEP();
    for (unsigned i = 0; i < tracker->batch_count; i++)
        PART_STORE(tracker->split->entry[tracker->batch[i]].inflight, 0);
    STEP();
    PART_STORE(tracker->split->used_idx, relay->guest.split.used_idx);
    tracker->batch_count = 0;
}

/* ---- The predecessor's chains ---------------------------------------------------------------- */

unsigned tracker_left(const struct svq_relay *relay)
{
    const struct tracker *tracker = relay->tracker;

    return tracker ? tracker->count - tracker->taken : 0;
}

/* Is what lies there the same in the guest's ring and in the private one? */
static bool in_ring_split(const struct svq_relay *relay, uint16_t idx)
{
    const struct split_ring *r = &relay->guest.split;

    return SPLIT_LOAD(r->avail->ring[idx & r->mask]) ==
           SPLIT_LOAD(relay->tracker->avail->ring[idx & r->mask]);
}

static bool in_ring_packed(const struct svq_relay *relay, struct packed_place place, unsigned slots)
{
    const struct packed_ring *r = &relay->guest.packed;

    for (; slots; slots--) {
        struct packed_desc one = packed_read_desc(&r->desc[place.idx]);
        struct packed_desc other = packed_read_desc(&relay->tracker->desc[place.idx]);

        if (memcmp(&one, &other, sizeof(one)) != 0)
            return false;
        packed_advance(r, &place, 1);
    }
    return true;
}

bool tracker_left_in_ring(const struct svq_relay *relay)
{
    unsigned left = tracker_left(relay), slots = 0;

    if (!relay->guest.is_packed) {
        for (unsigned i = 0; i < left; i++)
            if (!in_ring_split(relay, relay->guest.split.avail_idx + i))
                return false;
        return true;
    }
    for (unsigned i = 0; i < left; i++)
        slots += relay->tracker->chains[relay->tracker->taken + i].num;
    return in_ring_packed(relay, relay->guest.packed.avail, slots);
}

/* The ordinary step has taken a chain from the private ring: it has its mark. */
static void take_left(struct svq_relay *relay, struct inflight_chain *chain)
{
    const struct region_chain *left = &relay->tracker->chains[relay->tracker->taken++];
    struct packed_place place = relay->guest.packed.avail;
    bool same;

    chain->entry = left->head;
    if (relay->guest.is_packed) {
        packed_rewind(&relay->guest.packed, &place, chain->guest_slots);
        same = in_ring_packed(relay, place, chain->guest_slots);
    } else {
        same = in_ring_split(relay, relay->guest.split.avail_idx - 1);
    }
    if (!same)
        relay->inflight.fixed = relay->inflight.number; /* only the region still has it */
    relay->stats.resubmitted++;
}

static void swap_rings(struct svq_relay *relay)
{
    struct tracker *tracker = relay->tracker;

    if (relay->guest.is_packed) {
        struct packed_desc *desc = relay->guest.packed.desc;

        relay->guest.packed.desc = tracker->desc;
        tracker->desc = desc;
    } else {
        struct split_avail *avail = relay->guest.split.avail;

        relay->guest.split.avail = tracker->avail;
        tracker->avail = avail;
    }
}

/* relay->forward while there are such chains: the ordinary one, on the private ring. */
static unsigned forward_left(struct svq_relay *relay)
{
    struct tracker *tracker = relay->tracker;
    unsigned result;

    swap_rings(relay);
    result = tracker->forward(relay);
    swap_rings(relay);
    if (!tracker_left(relay))
        relay->forward = tracker->forward;
    return result;
}

void tracker_take(struct svq_relay *relay, uint16_t head)
{
    struct inflight_chain *chain = &relay->inflight.chains[head];

    if (UNLIKELY(tracker_left(relay))) {
        take_left(relay, chain);
    } else if (relay->guest.is_packed) {
        const struct packed_ring *guest = &relay->guest.packed;
        struct packed_place place = guest->avail;

        packed_rewind(guest, &place, chain->guest_slots);
        chain->entry =
            tracker_mark_packed(relay->tracker, guest, place, chain->guest_slots, chain->guest_id);
    } else {
        tracker_mark_split(relay->tracker, chain->guest_id);
    }
}

void tracker_give_back(struct svq_relay *relay, unsigned chains, bool left)
{
    struct tracker *tracker = relay->tracker;
    const struct inflight *t = &relay->inflight;
    uint16_t place = t->order_next;

    /* The newest first: what still has its mark is older than all that has not. */
    for (; tracker->taken < tracker->count; tracker->count--) {
        const struct region_chain *chain = &tracker->chains[tracker->count - 1];

        if (left)
            unmark(relay, chain->head);
        else if (relay->guest.is_packed)
            packed_advance(&relay->guest.packed, &relay->guest.packed.avail, chain->num);
        else
            relay->guest.split.avail_idx++;
    }
    for (; chains; chains--) {
        const struct inflight_chain *chain;

        place = place ? place - 1 : t->num - 1;
        chain = &t->chains[t->order[place]];
        unmark(relay, relay->guest.is_packed ? chain->entry : chain->guest_id);
    }
}

/* ---- Start and end --------------------------------------------------------------------------- */

static int make_ring_split(struct tracker *tracker, const struct split_ring *r,
                           const struct region *region)
{
    tracker->memory = calloc(1, svq_vring_driver_size(SVQ_RING_SPLIT, r->num));
    tracker->avail = tracker->memory;
    if (!tracker->avail)
        return -ENOMEM;
    for (unsigned i = 0; i < region->count; i++)
        tracker->avail->ring[(region->used.idx + i) & r->mask] = region->chains[i].head;
    tracker->avail->idx = region->used.idx + region->count;
    return 0;
}

static int make_ring_packed(struct tracker *tracker, const struct packed_ring *r,
                            const struct region *region)
{
    struct packed_place place = region->used;

    tracker->memory = calloc(r->num, sizeof(*tracker->desc));
    tracker->desc = tracker->memory;
    if (!tracker->desc)
        return -ENOMEM;
    for (unsigned i = 0; i < region->count; i++) {
        const struct region_packed_entry *e = &region->packed->entry[region->chains[i].head];

        for (unsigned left = region->chains[i].num; left; left--) {
            uint16_t flags = e->desc.flags & ~(PACKED_DESC_F_AVAIL | PACKED_DESC_F_USED);

            tracker->desc[place.idx] =
                (struct packed_desc){.addr = e->desc.addr,
                                     .len = e->desc.len,
                                     .id = e->desc.id,
                                     .flags = flags | packed_avail_flags(place.wrap)};
            packed_advance(r, &place, 1);
            e = &region->packed->entry[left > 1 ? e->next : 0];
        }
    }
    return 0;
}

static int make_memory(struct tracker *tracker, const struct svq_relay *relay, unsigned entries,
                       const struct region *region)
{
    if (!relay->guest.is_packed) {
        tracker->batch = calloc(relay->guest.split.num, sizeof(*tracker->batch));
        if (!tracker->batch)
            return -ENOMEM;
        return region->count ? make_ring_split(tracker, &relay->guest.split, region) : 0;
    }
    tracker->links = calloc(entries, sizeof(*tracker->links));
    if (!tracker->links)
        return -ENOMEM;
    return region->count ? make_ring_packed(tracker, &relay->guest.packed, region) : 0;
}

/* The specification's recovery, each step of which may be the last one. */
static void recover_split(struct svq_relay *relay, unsigned entries, const struct region *region)
{
    struct region_split *part = relay->tracker->split;

    for (unsigned i = 0; i < entries; i++)
        PART_STORE(part->entry[i].inflight, region->split->entry[i].inflight);
    STEP();
    PART_STORE(part->used_idx, region->used.idx);
    relay->guest.split.used_idx = region->used.idx;
    relay->guest.split.avail_idx = region->used.idx;
}

static void recover_packed(struct svq_relay *relay, unsigned entries, const struct region *region)
{
    struct tracker *tracker = relay->tracker;
    struct region_packed *part = tracker->packed;

    tracker->free_head = region->free_head;
    for (unsigned i = 0; i < entries; i++)
        tracker->links[i].next = region->packed->entry[i].next;
    for (unsigned i = 0; i < region->count; i++)
        tracker->links[region->chains[i].head].last = region->chains[i].last;
    PART_STORE(part->free_head, region->free_head);
    STEP();
    PART_STORE(part->old_free_head, region->free_head);
    STEP();
    tracker_store_used(tracker, region->used, region->used);
    STEP();
    for (unsigned i = 0; i < entries; i++)
        PART_STORE(part->entry[i].inflight, region->packed->entry[i].inflight);
    /* A predecessor with another order of steps may have been killed between two of them. */
    for (unsigned i = 0; i < region->lost_count; i++) {
        STEP();
        tracker_free_entries(tracker, region->lost[i], region->lost[i]);
        STEP();
        PART_STORE(part->old_free_head, tracker->free_head);
    }
    relay->guest.packed.used = region->used;
    relay->guest.packed.avail = region->used;
}

static void begin(struct svq_relay *relay, const struct svq_relay_config *config,
                  struct region *region)
{
    struct tracker *tracker = relay->tracker;
    unsigned entries = config->inflight_entries;

    if (!region->tracked) {
        if (relay->guest.is_packed)
            svq_inflight_reset(tracker->part, SVQ_RING_PACKED, entries, config->base);
        else
            svq_inflight_reset(tracker->part, SVQ_RING_SPLIT, entries, relay->guest.split.used_idx);
        for (unsigned i = 0; tracker->links && i < entries; i++)
            tracker->links[i].next = i + 1;
        return;
    }
    if (relay->guest.is_packed)
        recover_packed(relay, entries, region);
    else
        recover_split(relay, entries, region);
    tracker->counter = region->counter;
    if (region->count) {
        tracker->chains = region->chains;
        tracker->count = region->count;
        region->chains = NULL;
        tracker->forward = relay->forward;
        relay->forward = forward_left;
    }
}

int tracker_start(struct svq_relay *relay, const struct svq_relay_config *config)
{
    enum svq_ring_format format = svq_ring_format(config->guest.features);
    unsigned entries = config->inflight_entries;
    struct tracker *tracker = NULL;
    struct region region;
    int err = region_read(&region, config->inflight, format, entries, config->guest.num,
                          &config->guest.ring);

    if (!err && !region.tracked && !svq_vring_base_valid(format, config->guest.num, config->base))
        err = -EINVAL;
    if (!err) {
        tracker = calloc(1, sizeof(*tracker));
        err = tracker ? make_memory(tracker, relay, entries, &region) : -ENOMEM;
    }
    if (!err) {
        tracker->part = config->inflight;
        relay->tracker = tracker;
        begin(relay, config, &region);
    } else {
        tracker_free(tracker);
    }
    region_free(&region);
    return err;
}

void tracker_free(struct tracker *tracker)
{
    if (!tracker)
        return;
    free(tracker->batch);
    free(tracker->links);
    free(tracker->chains);
    free(tracker->memory);
    free(tracker);
}
