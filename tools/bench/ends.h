/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The two ends of a virtqueue, as fast as they can be while they keep to the specification: a
 * driver that offers chains of one shape, and a device that serves whatever comes. Either works on
 * whole batches, polls, and asks for no notifications.
 *
 * They share nothing with the library, and touch no buffer: what is measured is the ring.
 */
#ifndef SVQ_BENCH_ENDS_H
#define SVQ_BENCH_ENDS_H

#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/relay.h>

#define BENCH_F_NEXT     0x1u
#define BENCH_F_WRITE    0x2u
#define BENCH_F_INDIRECT 0x4u

/* What a chain looks like. */
struct bench_shape {
    unsigned descs; /* buffers of a chain; the first of several is readable, all others writable */
    bool indirect;  /* they stand in an indirect table */
};

/* A driver's or a device's ring. */
struct bench_ring {
    enum svq_ring_format format;
    unsigned num;
    uint64_t features;
    struct svq_vring vring;
};

/* Guest memory that belongs to a chain: BENCH_DATA bytes of buffers and a table. */
#define BENCH_DATA 2048u

struct bench_driver_config {
    struct bench_ring ring;
    struct bench_shape shape;
    uint64_t data;   /* guest-physical; BENCH_DATA for each chain */
    uint64_t tables; /* guest-physical; 16 bytes for each buffer of each chain */
    void *tables_host;
};

struct bench_driver {
    /* Offer so many chains, which must be free, and publish them together. */
    void (*offer)(struct bench_driver *driver, unsigned count);
    /* Take back all that is used. Return: how many chains, -1: the ring is broken. */
    int (*reap)(struct bench_driver *driver);
};

struct bench_device {
    /*
     * Take all that is available and use it, in order or in reverse, and publish that.
     * Return: how many chains, -1: the ring is broken.
     */
    int (*serve)(struct bench_device *device, bool reverse);
};

/* How many chains of a shape fit a ring. */
unsigned bench_ring_holds(unsigned num, const struct bench_shape *shape);

/* NULL: out of memory. To be freed with free(). The driver's ring must be zeroed. */
struct bench_driver *bench_driver_new(const struct bench_driver_config *config);
struct bench_device *bench_device_new(const struct bench_ring *ring);

struct bench_driver *bench_split_driver_new(const struct bench_driver_config *config);
struct bench_device *bench_split_device_new(const struct bench_ring *ring);
struct bench_driver *bench_packed_driver_new(const struct bench_driver_config *config);
struct bench_device *bench_packed_device_new(const struct bench_ring *ring);

/* ---- For the ends themselves ------------------------------------------------------------------
 */

/* A buffer of a chain. */
struct bench_buf {
    uint64_t addr;
    uint32_t len;
    bool write;
};

static inline struct bench_buf bench_buf(const struct bench_driver_config *c, unsigned chain,
                                         unsigned i)
{
    uint32_t len = BENCH_DATA / c->shape.descs;

    return (struct bench_buf){c->data + (uint64_t)chain * BENCH_DATA + i * len, len,
                              i > 0 || c->shape.descs == 1};
}

/* Where a chain's indirect table is. */
static inline uint64_t bench_table(const struct bench_driver_config *c, unsigned chain)
{
    return c->tables + (uint64_t)chain * c->shape.descs * 16;
}

static inline void *bench_table_host(const struct bench_driver_config *c, unsigned chain)
{
    return (char *)c->tables_host + (uint64_t)chain * c->shape.descs * 16;
}

/* What a device reports as written. */
#define BENCH_WRITTEN 64u

#endif
