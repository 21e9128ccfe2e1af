/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "split.h"

static struct kit_split_device *device_of(struct kit_device *device)
{
    return (struct kit_split_device *)device;
}

static int broken(struct kit_device *device, const char *rule)
{
    device->broken = rule;
    return -EPROTO;
}

/* Walks one table; `at` is where to start. Return: buffers stored from `count` on, or -EPROTO. */
static int walk(struct kit_device *device, const struct kit_desc *table, unsigned num, unsigned at,
                bool nested, struct kit_buf *bufs, int count, int max)
{
    for (unsigned steps = 0; steps < num; steps++) {
        struct kit_desc desc;

        if (at >= num)
            return broken(device, "a descriptor's number is out of range");
        memcpy(&desc, &table[at], sizeof(desc)); /* tables lie anywhere */
        if (desc.flags & KIT_F_INDIRECT) {
            const struct kit_desc *inner = kit_device_table(device, desc.addr, desc.len);

            if (!device->indirect)
                return broken(device, "INDIRECT was not negotiated");
            if (nested || (desc.flags & KIT_F_NEXT))
                return broken(device, "INDIRECT where it must not be");
            if (!inner)
                return broken(device, "an indirect table is nowhere, empty or of an odd length");
            return walk(device, inner, desc.len / (unsigned)sizeof(*inner), 0, true, bufs, count,
                        max);
        }
        if (count == max)
            return broken(device, "a chain is too long");
        bufs[count].gpa = desc.addr;
        bufs[count].len = desc.len;
        bufs[count].write = desc.flags & KIT_F_WRITE;
        count++;
        if (!(desc.flags & KIT_F_NEXT))
            return count;
        /* virtio 1.3 section 2.7.5.1: with IN_ORDER in the order of the table. */
        if (device->in_order && !nested && desc.next != (at + 1) % num)
            return broken(device, "descriptors are not in order");
        at = desc.next;
    }
    return broken(device, "a chain is longer than its table");
}

static int split_take(struct kit_device *device, uint16_t *id, struct kit_buf *bufs, unsigned max)
{
    struct kit_split_device *d = device_of(device);
    const struct kit_ring *ring = &device->ring;
    uint16_t waiting = (uint16_t)(kit_get16(&ring->split.avail->idx) - d->taken);
    uint16_t head;

    if (device->broken)
        return -EPROTO;
    if (waiting == 0)
        return 0;
    if (waiting > ring->num)
        return broken(device, "the available index is too far ahead");
    head = ring->split.avail->ring[d->taken & (ring->num - 1)];
    if (head >= ring->num)
        return broken(device, "a head is out of range");
    d->taken++;
    *id = head;
    return walk(device, ring->split.desc, ring->num, head, false, bufs, 0, (int)max);
}

static void split_complete(struct kit_device *device, uint16_t id, uint32_t len, unsigned batch)
{
    struct kit_split_device *d = device_of(device);
    struct kit_used_elem *elem =
        &device->ring.split.used->ring[d->completed & (device->ring.num - 1)];

    elem->id = id;
    elem->len = len;
    d->completed = (uint16_t)(d->completed + batch);
}

static bool split_publish(struct kit_device *device)
{
    struct kit_split_device *d = device_of(device);
    uint16_t old = d->published;
    uint16_t event;

    kit_set16(&device->ring.split.used->idx, d->completed);
    d->published = d->completed;
    /* The index before the suppression state: pairs with the driver's fence in pending(). */
    __sync_synchronize();
    if (old == d->published)
        return false;
    if (!device->event_idx)
        return !(kit_get16(&device->ring.split.avail->flags) & 1);
    event = kit_get16(kit_used_event(&device->ring));
    return (uint16_t)(d->published - event - 1) < (uint16_t)(d->published - old);
}

static void split_kicks(struct kit_device *device, bool on)
{
    struct kit_split_device *d = device_of(device);

    if (!device->event_idx)
        kit_set16(&device->ring.split.used->flags, !on);
    else
        kit_set16(kit_avail_event(&device->ring), (uint16_t)(d->taken - !on));
}

static bool split_pending(struct kit_device *device)
{
    struct kit_split_device *d = device_of(device);

    __sync_synchronize();
    return kit_get16(&device->ring.split.avail->idx) != d->taken;
}

static uint32_t split_stop(struct kit_device *device)
{
    return device_of(device)->taken;
}

static void split_free(struct kit_device *device)
{
    free(device_of(device));
}

static const struct kit_device_ops split_ops = {
    .take = split_take,
    .complete = split_complete,
    .publish = split_publish,
    .kicks = split_kicks,
    .pending = split_pending,
    .stop = split_stop,
    .free = split_free,
};

struct kit_device *kit_split_device_new(const struct svq_map *map, const struct kit_ring *ring,
                                        uint64_t features, uint16_t base)
{
    struct kit_split_device *d = calloc(1, sizeof(*d));

    kit_require(d != NULL);
    kit_device_init(&d->device, &split_ops, map, ring, features);
    d->taken = base;
    d->completed = d->published = ring->split.used->idx;
    return &d->device;
}
