/* SPDX-License-Identifier: BSD-3-Clause */
/* Split virtqueues, virtio 1.3 section 2.7. */
#include "ends.h"

#include <stdlib.h>

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
};

struct used_elem {
    uint32_t id;
    uint32_t len;
};

struct used {
    uint16_t flags;
    uint16_t idx;
    struct used_elem ring[];
};

#define NO_NOTIFICATION 1u /* in either ring's flags */

/* ---- Driver ---------------------------------------------------------------------------------- */

struct split_driver {
    struct bench_driver driver;
    struct bench_driver_config config;
    struct desc *desc;
    struct avail *avail;
    struct used *used;
    uint16_t mask;
    uint16_t avail_idx;
    uint16_t used_idx;
    uint16_t stride;     /* descriptors of a chain in the ring's table */
    unsigned chains;     /* that fit the ring: chain i starts at descriptor i * stride */
    unsigned free_first; /* in `free`, a ring: IN_ORDER wants descriptors in table order */
    unsigned free_last;
    uint16_t free[];
};

static void write_chain(struct split_driver *d, struct desc *desc, unsigned chain, unsigned first)
{
    unsigned count = d->config.shape.descs;

    for (unsigned i = 0; i < count; i++) {
        struct bench_buf buf = bench_buf(&d->config, chain, i);

        desc[i].addr = buf.addr;
        desc[i].len = buf.len;
        desc[i].flags =
            (uint16_t)((buf.write ? BENCH_F_WRITE : 0) | (i + 1 < count ? BENCH_F_NEXT : 0));
        desc[i].next = (uint16_t)(first + i + 1);
    }
}

static void split_offer(struct bench_driver *driver, unsigned count)
{
    struct split_driver *d = (struct split_driver *)driver;

    while (count--) {
        uint16_t chain = d->free[d->free_first];
        uint16_t head = (uint16_t)(chain * d->stride);

        d->free_first = d->free_first + 1 == d->chains ? 0 : d->free_first + 1;
        if (d->config.shape.indirect) {
            write_chain(d, bench_table_host(&d->config, chain), chain, 0);
            d->desc[head].addr = bench_table(&d->config, chain);
            d->desc[head].len = 16 * d->config.shape.descs;
            d->desc[head].flags = BENCH_F_INDIRECT;
        } else {
            write_chain(d, &d->desc[head], chain, head);
        }
        d->avail->ring[d->avail_idx++ & d->mask] = head;
    }
    /* Release: pairs with the device's acquire; entries and descriptors before it. */
    __atomic_store_n(&d->avail->idx, d->avail_idx, __ATOMIC_RELEASE);
}

static int split_reap(struct bench_driver *driver)
{
    struct split_driver *d = (struct split_driver *)driver;
    /* Acquire: pairs with the device's release of used.idx. */
    uint16_t idx = __atomic_load_n(&d->used->idx, __ATOMIC_ACQUIRE);
    int count = 0;

    for (; d->used_idx != idx; d->used_idx++, count++) {
        uint32_t head = d->used->ring[d->used_idx & d->mask].id;

        if (head > d->mask || (unsigned)count == d->chains)
            return -1;
        d->free[d->free_last] = (uint16_t)(head / d->stride);
        d->free_last = d->free_last + 1 == d->chains ? 0 : d->free_last + 1;
    }
    return count;
}

struct bench_driver *bench_split_driver_new(const struct bench_driver_config *config)
{
    unsigned num = config->ring.num, chains = bench_ring_holds(num, &config->shape);
    struct split_driver *d = calloc(1, sizeof(*d) + chains * sizeof(d->free[0]));

    if (!d)
        return NULL;
    d->driver.offer = split_offer;
    d->driver.reap = split_reap;
    d->config = *config;
    d->desc = config->ring.vring.desc;
    d->avail = config->ring.vring.driver;
    d->used = config->ring.vring.device;
    d->mask = (uint16_t)(num - 1);
    d->stride = (uint16_t)(config->shape.indirect ? 1 : config->shape.descs);
    d->chains = chains;
    for (unsigned i = 0; i < chains; i++)
        d->free[i] = (uint16_t)i;
    if (config->ring.features & SVQ_BIT(SVQ_F_EVENT_IDX))
        d->avail->ring[num] = 0xffff; /* used_event: passed once in 65,536 */
    else
        d->avail->flags = NO_NOTIFICATION;
    return &d->driver;
}

/* ---- Device ---------------------------------------------------------------------------------- */

struct split_device {
    struct bench_device device;
    const struct desc *desc;
    const struct avail *avail;
    struct used *used;
    uint16_t mask;
    uint16_t avail_idx;
    uint16_t used_idx;
    uint16_t taken[];
};

/* As a device would: to the last descriptor, which it must reach. */
static bool walk(const struct split_device *d, uint16_t head)
{
    unsigned steps = 0;

    while (d->desc[head].flags & BENCH_F_NEXT) {
        head = d->desc[head].next;
        if (head > d->mask || ++steps > d->mask)
            return false;
    }
    return true;
}

static int split_serve(struct bench_device *device, bool reverse)
{
    struct split_device *d = (struct split_device *)device;
    /* Acquire: pairs with the driver's release of avail.idx. */
    uint16_t idx = __atomic_load_n(&d->avail->idx, __ATOMIC_ACQUIRE);
    unsigned count = (uint16_t)(idx - d->avail_idx);

    if (count > (unsigned)d->mask + 1)
        return -1;
    for (unsigned i = 0; i < count; i++) {
        uint16_t head = d->avail->ring[d->avail_idx++ & d->mask];

        if (head > d->mask || !walk(d, head))
            return -1;
        d->taken[reverse ? count - 1 - i : i] = head;
    }
    for (unsigned i = 0; i < count; i++)
        d->used->ring[d->used_idx++ & d->mask] = (struct used_elem){d->taken[i], BENCH_WRITTEN};
    /* Release: pairs with the driver's acquire; the entries before it. */
    __atomic_store_n(&d->used->idx, d->used_idx, __ATOMIC_RELEASE);
    return (int)count;
}

struct bench_device *bench_split_device_new(const struct bench_ring *ring)
{
    struct split_device *d = calloc(1, sizeof(*d) + ring->num * sizeof(d->taken[0]));
    uint16_t *avail_event;

    if (!d)
        return NULL;
    d->device.serve = split_serve;
    d->desc = ring->vring.desc;
    d->avail = ring->vring.driver;
    d->used = ring->vring.device;
    d->mask = (uint16_t)(ring->num - 1);
    avail_event = (void *)&d->used->ring[ring->num];
    if (ring->features & SVQ_BIT(SVQ_F_EVENT_IDX))
        *avail_event = 0xffff; /* passed once in 65,536 */
    else
        d->used->flags = NO_NOTIFICATION;
    return &d->device;
}
