/* SPDX-License-Identifier: BSD-3-Clause */
/* Packed virtqueues, virtio 1.3 section 2.8. */
#include "ends.h"

#include <stdlib.h>

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};

struct event {
    uint16_t desc;
    uint16_t flags;
};

#define F_AVAIL         0x80u
#define F_USED          0x8000u
#define EVENT_F_DISABLE 0x1u

/* A place in the ring, and how often it has been there: odd or even. */
struct place {
    uint16_t at;
    bool wrap;
};

static inline void step(struct place *p, unsigned by, unsigned num)
{
    unsigned at = p->at + by;

    if (at >= num) {
        at -= num;
        p->wrap = !p->wrap;
    }
    p->at = (uint16_t)at;
}

/* ---- Driver ---------------------------------------------------------------------------------- */

struct packed_driver {
    struct bench_driver driver;
    struct bench_driver_config config;
    struct desc *desc;
    unsigned num;
    struct place avail;
    struct place used;
    unsigned stride; /* descriptors of a chain in the ring */
    unsigned chains; /* that fit the ring, and as many ids */
    unsigned free_first;
    unsigned free_last;
    uint16_t free[];
};

static void write_table(struct packed_driver *d, unsigned chain)
{
    struct desc *table = bench_table_host(&d->config, chain);

    for (unsigned i = 0; i < d->config.shape.descs; i++) {
        struct bench_buf buf = bench_buf(&d->config, chain, i);

        /* Only WRITE means anything here. */
        table[i] = (struct desc){buf.addr, buf.len, 0, buf.write ? BENCH_F_WRITE : 0};
    }
}

/* Descriptor i of a chain at its place; `flags` receives what makes it available. */
static struct desc *write_desc(struct packed_driver *d, uint16_t chain, unsigned i, uint16_t *flags)
{
    struct desc *desc = &d->desc[d->avail.at];

    *flags = d->avail.wrap ? F_AVAIL : F_USED;
    if (d->config.shape.indirect) {
        write_table(d, chain);
        desc->addr = bench_table(&d->config, chain);
        desc->len = 16 * d->config.shape.descs;
        *flags |= BENCH_F_INDIRECT;
    } else {
        struct bench_buf buf = bench_buf(&d->config, chain, i);

        desc->addr = buf.addr;
        desc->len = buf.len;
        *flags |= (buf.write ? BENCH_F_WRITE : 0) | (i + 1 < d->stride ? BENCH_F_NEXT : 0);
    }
    desc->id = chain;
    return desc;
}

static void packed_offer(struct bench_driver *driver, unsigned count)
{
    struct packed_driver *d = (struct packed_driver *)driver;
    struct desc *first = NULL;
    uint16_t first_flags = 0;

    while (count--) {
        uint16_t chain = d->free[d->free_first];

        d->free_first = d->free_first + 1 == d->chains ? 0 : d->free_first + 1;
        for (unsigned i = 0; i < d->stride; i++) {
            uint16_t flags;
            struct desc *desc = write_desc(d, chain, i, &flags);

            if (first) {
                desc->flags = flags;
            } else {
                first = desc;
                first_flags = flags;
            }
            step(&d->avail, 1, d->num);
        }
    }
    /* Release: pairs with the device's acquire; all other descriptors before it. */
    if (first)
        __atomic_store_n(&first->flags, first_flags, __ATOMIC_RELEASE);
}

static bool is_used(const struct packed_driver *d)
{
    /* Acquire: pairs with the device's release of these flags. */
    uint16_t flags = __atomic_load_n(&d->desc[d->used.at].flags, __ATOMIC_ACQUIRE);

    return !(flags & F_AVAIL) == !d->used.wrap && !(flags & F_USED) == !d->used.wrap;
}

static int packed_reap(struct bench_driver *driver)
{
    struct packed_driver *d = (struct packed_driver *)driver;
    unsigned count = 0;

    for (; count < d->chains && is_used(d); count++) {
        uint16_t id = d->desc[d->used.at].id;

        if (id >= d->chains)
            return -1;
        d->free[d->free_last] = id;
        d->free_last = d->free_last + 1 == d->chains ? 0 : d->free_last + 1;
        step(&d->used, d->stride, d->num);
    }
    return (int)count;
}

struct bench_driver *bench_packed_driver_new(const struct bench_driver_config *config)
{
    unsigned num = config->ring.num, chains = bench_ring_holds(num, &config->shape);
    struct packed_driver *d = calloc(1, sizeof(*d) + chains * sizeof(d->free[0]));
    struct event *event = config->ring.vring.driver;

    if (!d)
        return NULL;
    d->driver.offer = packed_offer;
    d->driver.reap = packed_reap;
    d->config = *config;
    d->desc = config->ring.vring.desc;
    d->num = num;
    d->avail = d->used = (struct place){0, true};
    d->stride = config->shape.indirect ? 1 : config->shape.descs;
    d->chains = chains;
    for (unsigned i = 0; i < chains; i++)
        d->free[i] = (uint16_t)i;
    event->flags = EVENT_F_DISABLE;
    return &d->driver;
}

/* ---- Device ---------------------------------------------------------------------------------- */

struct taken {
    uint16_t id;
    uint16_t slots;
};

struct packed_device {
    struct bench_device device;
    struct desc *desc;
    unsigned num;
    struct place avail;
    struct place used;
    struct taken taken[];
};

static bool is_available(const struct packed_device *d)
{
    /* Acquire: pairs with the driver's release of these flags. */
    uint16_t flags = __atomic_load_n(&d->desc[d->avail.at].flags, __ATOMIC_ACQUIRE);

    return !(flags & F_AVAIL) == !d->avail.wrap && !(flags & F_USED) == d->avail.wrap;
}

/* The next chain's id, which stands in its last descriptor. */
static struct taken take(struct packed_device *d)
{
    struct taken t = {0};
    const struct desc *desc;

    do {
        desc = &d->desc[d->avail.at];
        step(&d->avail, 1, d->num);
        t.slots++;
    } while ((desc->flags & BENCH_F_NEXT) && t.slots < d->num);
    t.id = desc->id;
    return t;
}

static int packed_serve(struct bench_device *device, bool reverse)
{
    struct packed_device *d = (struct packed_device *)device;
    unsigned count = 0;

    while (count < d->num && is_available(d))
        d->taken[count++] = take(d);
    for (unsigned i = 0; i < count; i++) {
        struct taken t = d->taken[reverse ? count - 1 - i : i];
        struct desc *desc = &d->desc[d->used.at];

        desc->id = t.id;
        desc->len = BENCH_WRITTEN;
        /* Release: pairs with the driver's acquire; id and length before it. */
        __atomic_store_n(&desc->flags, BENCH_F_WRITE | (d->used.wrap ? F_AVAIL | F_USED : 0),
                         __ATOMIC_RELEASE);
        step(&d->used, t.slots, d->num);
    }
    return (int)count;
}

struct bench_device *bench_packed_device_new(const struct bench_ring *ring)
{
    struct packed_device *d = calloc(1, sizeof(*d) + ring->num * sizeof(d->taken[0]));
    struct event *event = ring->vring.device;

    if (!d)
        return NULL;
    d->device.serve = packed_serve;
    d->desc = ring->vring.desc;
    d->num = ring->num;
    d->avail = d->used = (struct place){0, true};
    event->flags = EVENT_F_DISABLE;
    return &d->device;
}
