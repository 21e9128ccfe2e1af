/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include <shadowvq/vhost_user.h>

#include "split.h"

static struct kit_split_device *device_of(struct kit_device *device)
{
    return (struct kit_split_device *)device;
}

/* Walks one table; `at` is where to start. Return: buffers stored from `count` on, or -EPROTO. */
static int walk(struct kit_split_device *d, const struct kit_desc *table, unsigned num, unsigned at,
                bool nested, struct kit_buf *bufs, int count, int max)
{
    for (unsigned steps = 0; steps < num; steps++) {
        struct kit_desc desc;

        if (at >= num)
            return -EPROTO;
        desc = table[at];
        if (desc.flags & KIT_F_INDIRECT) {
            const struct kit_desc *inner = svq_map_gpa(d->map, desc.addr, desc.len);

            if (nested || !d->indirect || !inner || desc.len == 0 || desc.len % sizeof(*inner) ||
                (desc.flags & KIT_F_NEXT))
                return -EPROTO;
            return walk(d, inner, desc.len / (unsigned)sizeof(*inner), 0, true, bufs, count, max);
        }
        if (count == max)
            return -EPROTO;
        bufs[count].gpa = desc.addr;
        bufs[count].len = desc.len;
        bufs[count].write = desc.flags & KIT_F_WRITE;
        count++;
        if (!(desc.flags & KIT_F_NEXT))
            return count;
        at = desc.next;
    }
    return -EPROTO;
}

static int split_take(struct kit_device *device, uint16_t *id, struct kit_buf *bufs, unsigned max)
{
    struct kit_split_device *d = device_of(device);
    uint16_t waiting = (uint16_t)(kit_get16(&d->ring.avail->idx) - d->taken);
    uint16_t head;

    if (waiting == 0)
        return 0;
    if (waiting > d->ring.num)
        return -EPROTO;
    head = d->ring.avail->ring[d->taken & (d->ring.num - 1)];
    if (head >= d->ring.num)
        return -EPROTO;
    d->taken++;
    *id = head;
    return walk(d, d->ring.desc, d->ring.num, head, false, bufs, 0, (int)max);
}

static void split_complete(struct kit_device *device, uint16_t id, uint32_t len, unsigned batch)
{
    struct kit_split_device *d = device_of(device);
    struct kit_used_elem *elem = &d->ring.used->ring[d->completed & (d->ring.num - 1)];

    elem->id = id;
    elem->len = len;
    d->completed = (uint16_t)(d->completed + batch);
}

static bool split_publish(struct kit_device *device)
{
    struct kit_split_device *d = device_of(device);
    uint16_t old = d->published;
    uint16_t event;

    kit_set16(&d->ring.used->idx, d->completed);
    d->published = d->completed;
    /* The index before the suppression state: pairs with the driver's fence in interrupts(). */
    __sync_synchronize();
    if (old == d->published)
        return false;
    if (!d->event_idx)
        return !(kit_get16(&d->ring.avail->flags) & 1);
    event = kit_get16(kit_used_event(&d->ring));
    return (uint16_t)(d->published - event - 1) < (uint16_t)(d->published - old);
}

static void split_kicks(struct kit_device *device, bool on)
{
    struct kit_split_device *d = device_of(device);

    if (!d->event_idx)
        kit_set16(&d->ring.used->flags, !on);
    else
        kit_set16(kit_avail_event(&d->ring), (uint16_t)(d->taken - !on));
}

static bool split_pending(struct kit_device *device)
{
    struct kit_split_device *d = device_of(device);

    __sync_synchronize();
    return kit_get16(&d->ring.avail->idx) != d->taken;
}

static uint16_t split_stop(struct kit_device *device)
{
    return device_of(device)->taken;
}

static const struct kit_device_ops split_ops = {
    .take = split_take,
    .complete = split_complete,
    .publish = split_publish,
    .kicks = split_kicks,
    .pending = split_pending,
    .stop = split_stop,
};

void kit_split_device_init(struct kit_split_device *d, const struct svq_map *map,
                           const struct kit_split *ring, uint64_t features, uint16_t base)
{
    memset(d, 0, sizeof(*d));
    d->device.ops = &split_ops;
    d->map = map;
    d->ring = *ring;
    d->event_idx = features & SVQ_BIT(SVQ_F_EVENT_IDX);
    d->indirect = features & SVQ_BIT(SVQ_F_INDIRECT_DESC);
    d->taken = base;
    d->completed = d->published = ring->used->idx;
}
