/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "split.h"

static struct kit_split_driver *driver_of(struct kit_driver *driver)
{
    return (struct kit_split_driver *)driver;
}

static int broken(struct kit_driver *driver, const char *rule)
{
    driver->broken = rule;
    return -EPROTO;
}

static unsigned slot_of(const struct kit_split_driver *d, uint16_t idx)
{
    return idx & (d->driver.ring.num - 1);
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
    struct kit_desc *table = kit_memory_at(d->driver.memory, chain->table, n * sizeof(*table));

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
        desc = &d->driver.ring.split.desc[at];
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
    driver->ring.split.avail->ring[slot_of(d, d->added)] = head;
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

    kit_set16(&driver->ring.split.avail->idx, d->added);
    d->published = d->added;
    /* The index before the suppression state: pairs with the device's fence in kicks(). */
    __sync_synchronize();
    if (old == d->published)
        return false;
    if (driver->event_idx)
        return need_event(kit_get16(kit_avail_event(&driver->ring)), d->published, old);
    return !(kit_get16(&driver->ring.split.used->flags) & 1);
}

static void release(struct kit_split_driver *d, uint16_t head, struct kit_done *done)
{
    struct kit_split_slot *slot = &d->slots[head];

    done->token = slot->token;
    slot->busy = false;
    if (d->driver.in_order) {
        /* To the tail: slots come round in table order. */
        d->free_count += slot->count;
        return;
    }
    /* The chain's slots are still linked, as they came from this list. */
    d->next_free[slot->last] = d->free_head;
    d->free_head = head;
    d->free_count += slot->count;
}

/* A used index that the device may have come to. */
static int read_used_idx(struct kit_split_driver *d, uint16_t *idx)
{
    struct kit_driver *driver = &d->driver;

    if (driver->broken)
        return -EPROTO;
    *idx = kit_get16(&driver->ring.split.used->idx);
    if ((uint16_t)(*idx - d->reaped) > (uint16_t)(d->published - d->reaped))
        return broken(driver, "the used index is beyond what is out");
    return 0;
}

/*
 * The used entry at an index. Return: how many chains it completes, itself included, or -EPROTO. In
 * order it names the last one of a batch.
 */
static int read_used(struct kit_split_driver *d, uint16_t at, uint16_t used_idx,
                     struct kit_used_elem *elem)
{
    struct kit_driver *driver = &d->driver;

    *elem = driver->ring.split.used->ring[slot_of(d, at)];
    if (elem->id >= driver->ring.num || !d->slots[elem->id].busy)
        return broken(driver, "a used id is not out");
    if (!driver->in_order)
        return 1;
    for (uint16_t i = at; i != used_idx; i++)
        if (d->order[slot_of(d, i)] == elem->id)
            return (uint16_t)(i + 1 - at);
    return broken(driver, "a used id is out of order");
}

static int split_reap(struct kit_driver *driver, struct kit_done *done)
{
    struct kit_split_driver *d = driver_of(driver);
    struct kit_used_elem elem;
    uint16_t used_idx, head;
    int err = read_used_idx(d, &used_idx);

    if (err || used_idx == d->reaped)
        return err;
    if (d->batch_end == d->reaped) {
        int batch = read_used(d, d->reaped, used_idx, &elem);

        if (batch < 0)
            return batch;
        d->batch_end = (uint16_t)(d->reaped + batch);
        d->batch_head = (uint16_t)elem.id;
        d->batch_len = elem.len;
    }
    d->reaped++;
    done->skipped = d->reaped != d->batch_end;
    done->len = done->skipped ? 0 : d->batch_len;
    head = driver->in_order ? d->order[slot_of(d, (uint16_t)(d->reaped - 1))] : d->batch_head;
    release(d, head, done);
    return 1;
}

static int split_peek(struct kit_driver *driver, struct kit_seen *seen)
{
    struct kit_split_driver *d = driver_of(driver);
    struct kit_used_elem elem;
    uint16_t used_idx;
    int result = read_used_idx(d, &used_idx);

    if (result)
        return result;
    /* What has been reaped need not be seen. */
    if ((int16_t)(d->batch_end - d->peeked) > 0)
        d->peeked = d->batch_end;
    if (d->peeked == used_idx)
        return 0;
    result = read_used(d, d->peeked, used_idx, &elem);
    if (result < 0)
        return result;
    *seen = (struct kit_seen){d->slots[elem.id].token, (unsigned)result, slot_of(d, d->peeked),
                              (unsigned)result};
    d->peeked = (uint16_t)(d->peeked + result);
    return 1;
}

static void split_interrupts(struct kit_driver *driver, bool on)
{
    struct kit_split_driver *d = driver_of(driver);

    if (!driver->event_idx)
        kit_set16(&driver->ring.split.avail->flags, !on);
    else /* off: an event that lies as far ahead as it can */
        kit_set16(kit_used_event(&driver->ring), (uint16_t)(d->reaped - !on));
}

static bool split_pending(struct kit_driver *driver)
{
    struct kit_split_driver *d = driver_of(driver);

    __sync_synchronize();
    return kit_get16(&driver->ring.split.used->idx) != d->reaped;
}

static void split_delay(struct kit_driver *driver, unsigned percent)
{
    struct kit_split_driver *d = driver_of(driver);
    unsigned distance = (uint16_t)(d->published - d->reaped) * percent / 100;

    if (driver->event_idx)
        kit_set16(kit_used_event(&driver->ring), (uint16_t)(d->reaped + distance));
    else
        split_interrupts(driver, true);
}

static uint16_t split_next(struct kit_driver *driver)
{
    return driver_of(driver)->added;
}

static void split_free(struct kit_driver *driver)
{
    struct kit_split_driver *d = driver_of(driver);

    free(d->next_free);
    free(d->order);
    free(d->slots);
    free(d);
}

static const struct kit_driver_ops split_ops = {
    .add = split_add,
    .publish = split_publish,
    .reap = split_reap,
    .peek = split_peek,
    .interrupts = split_interrupts,
    .delay = split_delay,
    .pending = split_pending,
    .next = split_next,
    .free = split_free,
};

static void shuffle_free(struct kit_split_driver *d, struct kit_rng *rng)
{
    unsigned num = d->driver.ring.num;
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

struct kit_driver *kit_split_driver_new(const struct kit_memory *memory,
                                        const struct kit_ring *ring, uint64_t features,
                                        uint16_t base, struct kit_rng *rng)
{
    struct kit_split_driver *d = calloc(1, sizeof(*d));
    unsigned num = ring->num;

    kit_require(d != NULL);
    kit_driver_init(&d->driver, &split_ops, memory, ring, features, rng);
    d->added = d->published = d->reaped = d->peeked = d->batch_end = base;
    d->free_count = num;
    d->next_free = calloc(num, sizeof(*d->next_free));
    d->order = calloc(num, sizeof(*d->order));
    d->slots = calloc(num, sizeof(*d->slots));
    kit_require(d->next_free && d->order && d->slots);
    for (unsigned i = 0; i < num; i++)
        d->next_free[i] = (uint16_t)((i + 1) % num);
    if (rng && !d->driver.in_order)
        shuffle_free(d, rng);
    memset(ring->split.desc, 0, kit_desc_bytes(num));
    memset(ring->split.avail, 0, kit_driver_bytes(SVQ_RING_SPLIT, num));
    memset(ring->split.used, 0, kit_device_bytes(SVQ_RING_SPLIT, num));
    ring->split.avail->idx = base;
    ring->split.used->idx = base;
    split_interrupts(&d->driver, true);
    return &d->driver;
}
