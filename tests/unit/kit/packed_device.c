/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "packed.h"

static struct kit_packed_device *device_of(struct kit_device *device)
{
    return (struct kit_packed_device *)device;
}

static int broken(struct kit_device *device, const char *rule)
{
    device->broken = rule;
    return -EPROTO;
}

static bool is_available(const struct kit_pdesc *desc, bool wrap)
{
    return (kit_get16(&desc->flags) & (KIT_P_AVAIL | KIT_P_USED)) == kit_avail_flags(wrap);
}

/* In an indirect table only WRITE means anything, and the order is the table's. */
static int read_table(struct kit_device *device, const struct kit_pdesc *desc, struct kit_buf *bufs,
                      unsigned count, unsigned max)
{
    const struct kit_pdesc *table = kit_device_table(device, desc->addr, desc->len);

    if (!device->indirect)
        return broken(device, "INDIRECT was not negotiated");
    if (!table)
        return broken(device, "an indirect table is nowhere, empty or of an odd length");
    if (desc->flags & KIT_P_NEXT || (count > 0 && !device->mixed))
        return broken(device, "INDIRECT in a chain of descriptors");
    if (desc->len / 16 > max - count)
        return broken(device, "a chain is too long");
    for (unsigned i = 0; i < desc->len / 16; i++) {
        struct kit_pdesc entry;

        memcpy(&entry, &table[i], sizeof(entry)); /* tables lie anywhere */
        bufs[count++] = (struct kit_buf){entry.addr, entry.len, (entry.flags & KIT_P_WRITE) != 0};
    }
    return (int)count;
}

/* Return: descriptors of the chain; its buffers in bufs[0..*count-1], its id in *id. */
static int read_chain(struct kit_packed_device *d, uint16_t *id, struct kit_buf *bufs,
                      unsigned *count, unsigned max)
{
    struct kit_device *device = &d->device;
    struct kit_place at = d->taken;

    *count = 0;
    for (unsigned slots = 1; slots <= device->ring.num; slots++) {
        const struct kit_pdesc *shared = &device->ring.packed.desc[at.off];
        struct kit_pdesc desc;

        if (!is_available(shared, at.wrap))
            return broken(device, "a part of a chain is not available");
        desc = *shared;
        kit_place_move(&at, device->ring.num, 1);
        *id = desc.id;
        if (desc.flags & KIT_P_INDIRECT) {
            int result = read_table(device, &desc, bufs, *count, max);

            *count = (unsigned)result;
            return result < 0 ? result : (int)slots;
        }
        if (*count == max)
            return broken(device, "a chain is too long");
        bufs[(*count)++] = (struct kit_buf){desc.addr, desc.len, (desc.flags & KIT_P_WRITE) != 0};
        if (!(desc.flags & KIT_P_NEXT))
            return (int)slots;
    }
    return broken(device, "a chain is longer than the ring");
}

static int packed_take(struct kit_device *device, uint16_t *id, struct kit_buf *bufs, unsigned max)
{
    struct kit_packed_device *d = device_of(device);
    unsigned count;
    int slots;

    if (device->broken)
        return -EPROTO;
    if (!is_available(&device->ring.packed.desc[d->taken.off], d->taken.wrap))
        return 0;
    slots = read_chain(d, id, bufs, &count, max);
    if (slots < 0)
        return slots;
    if (d->held + (unsigned)slots > device->ring.num)
        return broken(device, "more descriptors are available than the ring has");
    if (d->slots[*id])
        return broken(device, "an id is used that is out already");
    d->held += (unsigned)slots;
    d->slots[*id] = (uint16_t)slots;
    if (device->in_order)
        d->order[(d->order_first + d->order_count++) % device->ring.num] = *id;
    kit_place_move(&d->taken, device->ring.num, (unsigned)slots);
    return (int)count;
}

/* Forget a chain. Return: its descriptors; 1 for an id that is not out: tests make such. */
static unsigned forget(struct kit_packed_device *d, uint16_t id)
{
    unsigned slots = d->slots[id];

    d->slots[id] = 0;
    d->held -= slots;
    return slots ? slots : 1;
}

static unsigned forget_oldest(struct kit_packed_device *d)
{
    uint16_t id;

    if (!d->order_count)
        return 1;
    id = d->order[d->order_first];
    d->order_first = (d->order_first + 1) % d->device.ring.num;
    d->order_count--;
    return forget(d, id);
}

/* The first flags of what publish() makes visible are written by publish(). */
static void packed_complete(struct kit_device *device, uint16_t id, uint32_t len, unsigned batch)
{
    struct kit_packed_device *d = device_of(device);
    struct kit_pdesc *desc = &device->ring.packed.desc[d->completed.off];
    uint16_t flags = kit_used_flags(d->completed.wrap);
    unsigned slots = 0;

    if (len)
        flags |= KIT_P_WRITE;
    desc->id = id;
    desc->len = len;
    if (d->unpublished) {
        kit_set16(&desc->flags, flags);
    } else {
        d->first = d->completed;
        d->first_flags = flags;
    }
    if (device->in_order) {
        while (batch--)
            slots += forget_oldest(d);
    } else {
        slots = forget(d, id);
    }
    d->unpublished += slots;
    kit_place_move(&d->completed, device->ring.num, slots);
}

static bool packed_publish(struct kit_device *device)
{
    struct kit_packed_device *d = device_of(device);
    unsigned count = d->unpublished;
    int wanted;

    if (!count)
        return false;
    kit_set16(&device->ring.packed.desc[d->first.off].flags, d->first_flags);
    d->unpublished = 0;
    /* The flags before the suppression state: pairs with the driver's fence in pending(). */
    __sync_synchronize();
    wanted = kit_event_wanted(device->ring.packed.driver, device->event_idx, d->first, count,
                              device->ring.num);
    if (wanted < 0)
        broken(device, "the driver's event suppression is invalid");
    return wanted != 0;
}

static void packed_kicks(struct kit_device *device, bool on)
{
    struct kit_packed_device *d = device_of(device);
    struct kit_event *event = device->ring.packed.device;
    uint16_t garbage = device->rng ? (uint16_t)kit_rand(device->rng) : 0;

    if (!on)
        kit_event_set(event, garbage, KIT_EVENT_DISABLE);
    else if (!device->event_idx || (device->rng && kit_percent(device->rng, 30)))
        kit_event_set(event, garbage, KIT_EVENT_ENABLE);
    else
        kit_event_set(event, kit_place_word(d->taken), KIT_EVENT_DESC);
}

static bool packed_pending(struct kit_device *device)
{
    struct kit_packed_device *d = device_of(device);

    __sync_synchronize();
    return is_available(&device->ring.packed.desc[d->taken.off], d->taken.wrap);
}

static uint32_t packed_stop(struct kit_device *device)
{
    struct kit_packed_device *d = device_of(device);
    uint32_t base = kit_place_word(d->taken);

    return device->short_base ? base : base | (uint32_t)kit_place_word(d->completed) << 16;
}

static void packed_free(struct kit_device *device)
{
    struct kit_packed_device *d = device_of(device);

    free(d->slots);
    free(d->order);
    free(d);
}

static const struct kit_device_ops packed_ops = {
    .take = packed_take,
    .complete = packed_complete,
    .publish = packed_publish,
    .kicks = packed_kicks,
    .pending = packed_pending,
    .stop = packed_stop,
    .free = packed_free,
};

struct kit_device *kit_packed_device_new(const struct svq_map *map, const struct kit_ring *ring,
                                         uint64_t features, uint32_t base)
{
    struct kit_packed_device *d = calloc(1, sizeof(*d));

    kit_require(d != NULL);
    kit_device_init(&d->device, &packed_ops, map, ring, features);
    d->taken = kit_place_at((uint16_t)base);
    d->completed = base >> 16 ? kit_place_at((uint16_t)(base >> 16)) : d->taken;
    d->slots = calloc(65536, sizeof(*d->slots));
    d->order = calloc(ring->num, sizeof(*d->order));
    kit_require(d->slots && d->order);
    return &d->device;
}
