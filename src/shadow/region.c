/* SPDX-License-Identifier: BSD-3-Clause */
#include "shadow/region.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ring/split.h"

#define REGION_ALIGNMENT 64u

size_t svq_inflight_size(enum svq_ring_format format, unsigned num)
{
    size_t size = format == SVQ_RING_PACKED
                      ? sizeof(struct region_packed) + num * sizeof(struct region_packed_entry)
                      : sizeof(struct region_split) + num * sizeof(struct region_split_entry);

    return (size + REGION_ALIGNMENT - 1) / REGION_ALIGNMENT * REGION_ALIGNMENT;
}

/* ---- Making one ------------------------------------------------------------------------------ */

static void reset_split(struct region_split *part, unsigned entries, uint16_t used_idx)
{
    part->features = 0;
    part->entries = entries;
    part->last_batch = 0;
    part->used_idx = used_idx;
    memset(part->entry, 0, entries * sizeof(part->entry[0]));
}

static void reset_packed(struct region_packed *part, unsigned entries, uint32_t base)
{
    struct svq_ring_index index = svq_packed_index(base);

    memset(part->entry, 0, entries * sizeof(part->entry[0]));
    for (unsigned i = 0; i < entries; i++)
        part->entry[i].next = i + 1;
    part->features = 0;
    part->entries = entries;
    part->free_head = part->old_free_head = 0;
    part->used = (union region_used){{.idx = index.used,
                                      .old_idx = index.used,
                                      .wrap = index.used_wrap,
                                      .old_wrap = index.used_wrap}};
}

static uint16_t *version_of(void *part)
{
    static_assert(offsetof(struct region_split, version) == offsetof(struct region_packed, version),
                  "in the same place");
    return (uint16_t *)((char *)part + offsetof(struct region_split, version));
}

void svq_inflight_disown(void *part, enum svq_ring_format format, unsigned entries, uint32_t base)
{
    /* First: the process may be killed half-way. */
    __atomic_store_n(version_of(part), 0, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (format == SVQ_RING_PACKED)
        reset_packed(part, entries, base);
    else
        reset_split(part, entries, base);
}

void svq_inflight_reset(void *part, enum svq_ring_format format, unsigned entries, uint32_t base)
{
    svq_inflight_disown(part, format, entries, base);
    /* Release: pairs with nothing that runs, but nothing may come after it. */
    __atomic_store_n(version_of(part), REGION_VERSION, __ATOMIC_RELEASE);
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* One look at every word; what the checks say is true of the copy. */
static int copy_part(struct region *region, const void *part, size_t size)
{
    const uint64_t *from = part;
    char *to = malloc(size);

    if (!to)
        return -ENOMEM;
    for (size_t i = 0; i < size / sizeof(*from); i++) {
        uint64_t word = __atomic_load_n(&from[i], __ATOMIC_RELAXED);

        /* Not stored as a word: the compiler could take it that no field is one of those. */
        memcpy(to + i * sizeof(word), &word, sizeof(word));
    }
    region->copy = to;
    return 0;
}

static int compare_chains(const void *left, const void *right)
{
    const struct region_chain *a = left, *b = right;

    if (a->counter != b->counter)
        return a->counter < b->counter ? -1 : 1;
    return (int)a->head - (int)b->head;
}

static void add_chain(struct region *region, struct region_chain chain)
{
    region->chains[region->count++] = chain;
    region->slots += chain.num;
    if (chain.counter >= region->counter)
        region->counter = chain.counter + 1;
}

/*
 * What the last batch completed is not in flight any more, whether or not somebody came to say so.
 */
static int forget_last_batch(struct region_split *part, unsigned num, uint16_t used_idx)
{
    uint16_t batch = used_idx - part->used_idx, head = part->last_batch;
    uint8_t *seen;
    int err = 0;

    if (!batch)
        return 0;
    if (batch > num)
        return -EBADMSG;
    seen = calloc(num, sizeof(*seen));
    if (!seen)
        return -ENOMEM;
    for (; batch && !err; batch--) {
        if (head >= num || seen[head]) {
            err = -EBADMSG;
            break;
        }
        seen[head] = 1;
        part->entry[head].inflight = 0;
        head = part->entry[head].next;
    }
    free(seen);
    return err;
}

static int read_split(struct region *region, unsigned entries, unsigned num,
                      const struct svq_vring *guest)
{
    struct region_split *part = region->split;
    const struct split_used *used = guest->device;
    const struct split_avail *avail = guest->driver;
    /* Acquire: pairs with the driver's release of avail.idx, which is ahead of what was used. */
    uint16_t used_idx = __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE);
    uint16_t offered = __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) - used_idx;
    int err = forget_last_batch(part, num, used_idx);

    if (err)
        return err;
    region->used.idx = used_idx;
    for (unsigned i = 0; i < entries; i++) {
        const struct region_split_entry *e = &part->entry[i];

        if (!e->inflight)
            continue;
        if (e->inflight != 1 || i >= num)
            return -EBADMSG;
        add_chain(region, (struct region_chain){.counter = e->counter, .head = i, .num = 1});
    }
    return region->count <= offered ? 0 : -EBADMSG;
}

/* What an entry belongs to. */
enum owner { OWNER_NONE, OWNER_FREE, OWNER_CHAIN };

static int walk_free_list(struct region *region, unsigned entries, uint8_t *owners)
{
    struct region_packed *part = region->packed;
    unsigned at = region->free_head;

    for (; at != entries; at = part->entry[at].next) {
        if (at > entries || owners[at])
            return -EBADMSG;
        owners[at] = OWNER_FREE;
        part->entry[at].inflight = 0;
    }
    return 0;
}

static int walk_chain(struct region *region, unsigned entries, unsigned num, unsigned head,
                      uint8_t *owners)
{
    const struct region_packed_entry *first = &region->packed->entry[head];
    unsigned at = head;

    if (first->inflight != 1 || !first->num || first->num > num - region->slots)
        return -EBADMSG;
    for (unsigned left = first->num; left; left--) {
        const struct region_packed_entry *e;

        if (at >= entries || owners[at])
            return -EBADMSG;
        e = &region->packed->entry[at];
        owners[at] = OWNER_CHAIN;
        if (left == 1 ? at != first->last : !(e->desc.flags & PACKED_DESC_F_NEXT))
            return -EBADMSG;
        if (left == 1 && e->desc.flags & PACKED_DESC_F_NEXT)
            return -EBADMSG;
        at = e->next;
    }
    add_chain(region,
              (struct region_chain){
                  .counter = first->counter, .head = head, .last = first->last, .num = first->num});
    return 0;
}

/*
 * Was an update cut short? If the guest has not got the used descriptor it was about, it never
 * happened.
 */
static int settle_packed(struct region *region, unsigned num, const struct svq_vring *guest)
{
    const struct region_packed *part = region->packed;
    const union region_used *used = &part->used;
    bool commit = false;

    /*
     * A batch of all the ring's slots changes nothing but the wrap counter; the specification
     * looks at the index alone.
     */
    if (used->idx != used->old_idx || used->wrap != used->old_wrap) {
        const struct packed_desc *ring = guest->desc;

        if (used->old_idx >= num || used->old_wrap > 1)
            return -EBADMSG;
        commit = !packed_is_available(PACKED_LOAD(ring[used->old_idx].flags), used->old_wrap);
    }
    region->used.idx = commit ? used->idx : used->old_idx;
    region->used.wrap = commit ? used->wrap : used->old_wrap;
    region->free_head = commit ? part->free_head : part->old_free_head;
    if (region->used.idx >= num || (commit ? used->wrap : used->old_wrap) > 1)
        return -EBADMSG;
    return 0;
}

static int read_packed(struct region *region, unsigned entries, unsigned num,
                       const struct svq_vring *guest, uint8_t *owners)
{
    int err = settle_packed(region, num, guest);

    if (!err)
        err = walk_free_list(region, entries, owners);
    for (unsigned i = 0; i < entries && !err; i++)
        if (region->packed->entry[i].inflight)
            err = walk_chain(region, entries, num, i, owners);
    for (unsigned i = 0; i < entries && !err; i++)
        if (!owners[i])
            region->lost[region->lost_count++] = i;
    return err;
}

static int read_tracked(struct region *region, enum svq_ring_format format, unsigned entries,
                        unsigned num, const struct svq_vring *guest)
{
    uint8_t *owners;
    int err;

    /* The two heads begin alike. */
    if (region->split->features || region->split->version != REGION_VERSION ||
        region->split->entries != entries)
        return -EBADMSG;
    region->chains = calloc(num, sizeof(*region->chains));
    region->lost = calloc(entries, sizeof(*region->lost));
    owners = calloc(entries, sizeof(*owners));
    if (!region->chains || !region->lost || !owners)
        err = -ENOMEM;
    else if (format == SVQ_RING_PACKED)
        err = read_packed(region, entries, num, guest, owners);
    else
        err = read_split(region, entries, num, guest);
    free(owners);
    if (!err)
        qsort(region->chains, region->count, sizeof(*region->chains), compare_chains);
    return err;
}

int region_read(struct region *region, const void *part, enum svq_ring_format format,
                unsigned entries, unsigned num, const struct svq_vring *guest)
{
    int err;

    *region = (struct region){0};
    if (!svq_vring_num_valid(format, num) || entries < num || entries > UINT16_MAX ||
        (uintptr_t)part % sizeof(uint64_t))
        return -EINVAL;
    err = copy_part(region, part, svq_inflight_size(format, entries));
    if (err || !region->split->version)
        return err;
    region->tracked = true;
    return read_tracked(region, format, entries, num, guest);
}

void region_free(struct region *region)
{
    free(region->chains);
    free(region->lost);
    free(region->copy);
    *region = (struct region){0};
}

static uint32_t base_of(const struct region *region, enum svq_ring_format format, unsigned num,
                        unsigned taken)
{
    const struct packed_ring ring = {.num = num};
    struct packed_place avail = region->used;
    struct svq_ring_index index;

    if (format == SVQ_RING_SPLIT)
        return (uint16_t)(region->used.idx + taken);
    packed_advance(&ring, &avail, taken);
    index = (struct svq_ring_index){avail.idx, region->used.idx, avail.wrap, region->used.wrap};
    return svq_packed_base(&index);
}

int svq_inflight_read(const void *part, enum svq_ring_format format, unsigned entries, unsigned num,
                      const struct svq_vring *guest, struct svq_inflight_report *report)
{
    struct region region;
    int err = region_read(&region, part, format, entries, num, guest);

    *report = (struct svq_inflight_report){0};
    if (!err && region.tracked)
        *report = (struct svq_inflight_report){
            .tracked = true,
            .in_flight = region.count,
            .base = base_of(&region, format, num, region.slots),
            .used_base = base_of(&region, format, num, 0),
        };
    region_free(&region);
    return err;
}
