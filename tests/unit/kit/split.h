/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Both ends of a split virtqueue (virtio 1.3 section 2.7), and the ring laid bare for tests that
 * break its rules. Little-endian hosts only.
 */
#ifndef SVQ_TESTS_KIT_SPLIT_H
#define SVQ_TESTS_KIT_SPLIT_H

#include "ring.h"

#define KIT_F_NEXT     1u
#define KIT_F_WRITE    2u
#define KIT_F_INDIRECT 4u

struct kit_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct kit_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
};

struct kit_used_elem {
    uint32_t id;
    uint32_t len;
};

struct kit_used {
    uint16_t flags;
    uint16_t idx;
    struct kit_used_elem ring[];
};

static inline uint16_t *kit_used_event(const struct kit_ring *ring)
{
    return &ring->split.avail->ring[ring->num];
}

static inline uint16_t *kit_avail_event(const struct kit_ring *ring)
{
    return (uint16_t *)(void *)&ring->split.used->ring[ring->num];
}

/* ---- Driver ------------------------------------------------------------------------------ */

struct kit_split_slot {
    void *token;
    uint16_t last;  /* last descriptor of the chain in the ring's table */
    uint16_t count; /* descriptors there */
    bool busy;
};

struct kit_split_driver {
    struct kit_driver driver;
    uint16_t added;     /* avail index to come */
    uint16_t published; /* avail index the device sees */
    uint16_t reaped;    /* used index */
    uint16_t peeked;    /* used index that peek() has come to; maybe behind `reaped` */
    uint16_t
        batch_end; /* used index after the last used entry that was read; IN_ORDER: a batch's */
    uint16_t batch_head;
    uint32_t batch_len;
    unsigned free_count;
    uint16_t free_head;
    uint16_t *next_free;
    uint16_t *order; /* heads by avail index, IN_ORDER */
    struct kit_split_slot *slots;
};

struct kit_driver *kit_split_driver_new(const struct kit_memory *memory,
                                        const struct kit_ring *ring, uint64_t features,
                                        uint16_t base, struct kit_rng *rng);

/* ---- Device ------------------------------------------------------------------------------ */

struct kit_split_device {
    struct kit_device device;
    uint16_t taken;     /* next avail entry */
    uint16_t completed; /* used index to come */
    uint16_t published; /* used index the driver sees */
};

struct kit_device *kit_split_device_new(const struct svq_map *map, const struct kit_ring *ring,
                                        uint64_t features, uint16_t base);

#endif
