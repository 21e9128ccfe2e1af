/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <shadowvq/vhost_user.h>

#include "split.h"

size_t kit_split_used_bytes(unsigned num)
{
    return 4 + sizeof(struct kit_used_elem) * num + 2;
}

void kit_split_at(struct kit_split *ring, unsigned num, void *desc, void *avail, void *used)
{
    ring->num = num;
    ring->desc = desc;
    ring->avail = avail;
    ring->used = used;
}

struct svq_split_mem kit_split_mem(const struct kit_split *ring)
{
    return (struct svq_split_mem){ring->desc, ring->avail, ring->used};
}

static struct kit_split_driver *driver_of(struct kit_driver *driver)
{
    return (struct kit_split_driver *)driver;
}

static unsigned slot_of(const struct kit_split_driver *d, uint16_t idx)
{
    return idx & (d->ring.num - 1);
}

/* IN_ORDER wants descriptors in table order; the free list starts so, and completions keep it so.
 */
static uint16_t pop_free(struct kit_split_driver *d)
{
    uint16_t slot = d->free_head;

    d->free_head = d->next_free[slot];
    d->free_count--;
    return slot;
}

static void fill_table(struct kit_split_driver *d, const struct kit_chain *chain)
{
    unsigned n = chain->count - chain->direct;
    const struct kit_buf *bufs = chain->bufs + chain->direct;
    struct kit_desc *table = kit_memory_at(d->memory, chain->table, n * sizeof(*table));

    for (unsigned i = 0; i < n; i++) {
        /* Scattered: 0, n-1, n-2 ... 1. */
        unsigned at = chain->scatter && i ? n - i : i;
        unsigned next = chain->scatter ? n - i - 1 : i + 1;

        table[at].addr = bufs[i].gpa;
        table[at].len = bufs[i].len;
        table[at].flags =
            (uint16_t)((bufs[i].write ? KIT_F_WRITE : 0) | (i + 1 < n ? KIT_F_NEXT : 0));
        table[at].next = (uint16_t)(i + 1 < n ? next : 0);
    }
}

static bool split_add(struct kit_driver *driver, const struct kit_chain *chain)
{
    struct kit_split_driver *d = driver_of(driver);
    bool indirect = chain->direct < chain->count;
    unsigned needed = chain->direct + indirect;
    struct kit_desc *previous = NULL;
    struct kit_split_slot *slot;
    uint16_t head, at = 0;

    kit_require(needed > 0);
    if (needed > d->free_count)
        return false;
    if (indirect)
        fill_table(d, chain);
    head = d->free_head;
    for (unsigned i = 0; i < needed; i++) {
        struct kit_desc *desc;

        at = pop_free(d);
        desc = &d->ring.desc[at];
        if (previous) {
            previous->flags |= KIT_F_NEXT;
            previous->next = at;
        }
        if (i < chain->direct) {
            desc->addr = chain->bufs[i].gpa;
            desc->len = chain->bufs[i].len;
            desc->flags = chain->bufs[i].write ? KIT_F_WRITE : 0;
        } else {
            desc->addr = chain->table;
            desc->len = (uint32_t)((chain->count - chain->direct) * sizeof(*desc));
            desc->flags = KIT_F_INDIRECT;
        }
        desc->next = 0;
        previous = desc;
    }
    slot = &d->slots[head];
    kit_require(!slot->busy);
    *slot = (struct kit_split_slot){chain->token, at, (uint16_t)needed, true};
    d->ring.avail->ring[slot_of(d, d->added)] = head;
    d->order[slot_of(d, d->added)] = head;
    d->added++;
    return true;
}

/* virtio 1.3, 2.7.10.1: has the other side asked for a notification between old and new? */
static bool need_event(uint16_t event, uint16_t new, uint16_t old)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

static bool split_publish(struct kit_driver *driver)
{
    struct kit_split_driver *d = driver_of(driver);
    uint16_t old = d->published;

    kit_set16(&d->ring.avail->idx, d->added);
    d->published = d->added;
    /* The index before the suppression state: pairs with the device's fence in kicks(). */
    __sync_synchronize();
    if (old == d->published)
        return false;
    if (d->event_idx)
        return need_event(kit_get16(kit_avail_event(&d->ring)), d->published, old);
    return !(kit_get16(&d->ring.used->flags) & 1);
}

static void release(struct kit_split_driver *d, uint16_t head, struct kit_done *done)
{
    struct kit_split_slot *slot = &d->slots[head];

    done->token = slot->token;
    slot->busy = false;
    if (d->in_order) {
        /* To the tail: slots come round in table order. */
        d->free_count += slot->count;
        return;
    }
    /* The chain's own links still stand: a device never writes the descriptor table. */
    for (uint16_t at = head; at != slot->last; at = d->ring.desc[at].next)
        d->next_free[at] = d->ring.desc[at].next;
    d->next_free[slot->last] = d->free_head;
    d->free_head = head;
    d->free_count += slot->count;
}

/* Where the batch that ends with `head` ends, as an index; or -EPROTO. */
static int find_batch(struct kit_split_driver *d, uint32_t head, uint16_t used_idx)
{
    for (uint16_t i = d->reaped; i != used_idx; i++)
        if (d->order[slot_of(d, i)] == head)
            return (uint16_t)(i + 1);
    return -EPROTO;
}

static int reap_in_order(struct kit_split_driver *d, uint16_t used_idx, struct kit_done *done)
{
    uint16_t head;

    if (d->batch_end == d->reaped) {
        struct kit_used_elem *elem = &d->ring.used->ring[slot_of(d, d->reaped)];
        int end = find_batch(d, elem->id, used_idx);

        if (end < 0)
            return end;
        d->batch_end = (uint16_t)end;
        d->batch_len = elem->len;
    }
    head = d->order[slot_of(d, d->reaped)];
    if (!d->slots[head].busy)
        return -EPROTO;
    d->reaped++;
    done->skipped = d->reaped != d->batch_end;
    done->len = done->skipped ? 0 : d->batch_len;
    release(d, head, done);
    return 1;
}

static int split_reap(struct kit_driver *driver, struct kit_done *done)
{
    struct kit_split_driver *d = driver_of(driver);
    uint16_t used_idx = kit_get16(&d->ring.used->idx);
    struct kit_used_elem *elem;

    if (used_idx == d->reaped)
        return 0;
    if ((uint16_t)(used_idx - d->reaped) > (uint16_t)(d->published - d->reaped))
        return -EPROTO;
    if (d->in_order)
        return reap_in_order(d, used_idx, done);
    elem = &d->ring.used->ring[slot_of(d, d->reaped)];
    if (elem->id >= d->ring.num || !d->slots[elem->id].busy)
        return -EPROTO;
    done->len = elem->len;
    done->skipped = false;
    d->reaped++;
    release(d, (uint16_t)elem->id, done);
    return 1;
}

static void split_interrupts(struct kit_driver *driver, bool on)
{
    struct kit_split_driver *d = driver_of(driver);

    if (!d->event_idx)
        kit_set16(&d->ring.avail->flags, !on);
    else /* off: an event that lies as far ahead as it can */
        kit_set16(kit_used_event(&d->ring), (uint16_t)(d->reaped - !on));
}

static bool split_pending(struct kit_driver *driver)
{
    struct kit_split_driver *d = driver_of(driver);

    __sync_synchronize();
    return kit_get16(&d->ring.used->idx) != d->reaped;
}

static void split_free(struct kit_driver *driver)
{
    struct kit_split_driver *d = driver_of(driver);

    free(d->next_free);
    free(d->order);
    free(d->slots);
}

static const struct kit_driver_ops split_ops = {
    .add = split_add,
    .publish = split_publish,
    .reap = split_reap,
    .interrupts = split_interrupts,
    .pending = split_pending,
    .free = split_free,
};

static void shuffle_free(struct kit_split_driver *d, struct kit_rng *rng)
{
    unsigned num = d->ring.num;
    uint16_t *order = malloc(num * sizeof(*order));

    kit_require(order != NULL);
    for (unsigned i = 0; i < num; i++)
        order[i] = (uint16_t)i;
    for (unsigned i = num - 1; i > 0; i--) {
        unsigned j = kit_below(rng, i + 1);
        uint16_t swap = order[i];

        order[i] = order[j];
        order[j] = swap;
    }
    d->free_head = order[0];
    for (unsigned i = 0; i < num; i++)
        d->next_free[order[i]] = order[(i + 1) % num];
    free(order);
}

void kit_split_driver_init(struct kit_split_driver *d, const struct kit_memory *memory,
                           const struct kit_split *ring, uint64_t features, uint16_t base,
                           struct kit_rng *rng)
{
    unsigned num = ring->num;

    memset(d, 0, sizeof(*d));
    d->driver.ops = &split_ops;
    d->memory = memory;
    d->ring = *ring;
    d->event_idx = features & SVQ_BIT(SVQ_F_EVENT_IDX);
    d->in_order = features & SVQ_BIT(SVQ_F_IN_ORDER);
    d->added = d->published = d->reaped = d->batch_end = base;
    d->free_count = num;
    d->next_free = calloc(num, sizeof(*d->next_free));
    d->order = calloc(num, sizeof(*d->order));
    d->slots = calloc(num, sizeof(*d->slots));
    kit_require(d->next_free && d->order && d->slots);
    for (unsigned i = 0; i < num; i++)
        d->next_free[i] = (uint16_t)((i + 1) % num);
    if (rng && !d->in_order)
        shuffle_free(d, rng);
    memset(ring->desc, 0, sizeof(*ring->desc) * num);
    memset(ring->avail, 0, 6 + 2 * (size_t)num);
    memset(ring->used, 0, kit_split_used_bytes(num));
    ring->avail->idx = base;
    ring->used->idx = base;
    split_interrupts(&d->driver, true);
}
