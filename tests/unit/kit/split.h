/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Both ends of a split virtqueue (virtio 1.3 section 2.7), and the ring laid bare for tests that
 * break its rules. Little-endian hosts only.
 */
#ifndef SVQ_TESTS_KIT_SPLIT_H
#define SVQ_TESTS_KIT_SPLIT_H

#include <shadowvq/relay.h>

#include "memory.h"
#include "ring.h"
#include "rng.h"

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

struct kit_split {
    unsigned num;
    struct kit_desc *desc;
    struct kit_avail *avail;
    struct kit_used *used;
};

size_t kit_split_used_bytes(unsigned num);
void kit_split_at(struct kit_split *ring, unsigned num, void *desc, void *avail, void *used);
struct svq_split_mem kit_split_mem(const struct kit_split *ring);

static inline uint16_t *kit_used_event(const struct kit_split *ring)
{
    return &ring->avail->ring[ring->num];
}

static inline uint16_t *kit_avail_event(const struct kit_split *ring)
{
    return (uint16_t *)(void *)&ring->used->ring[ring->num];
}

static inline uint16_t kit_get16(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void kit_set16(uint16_t *p, uint16_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
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
    const struct kit_memory *memory;
    struct kit_split ring;
    bool event_idx;
    bool in_order;
    uint16_t added;     /* avail index to come */
    uint16_t published; /* avail index the device sees */
    uint16_t reaped;    /* used index */
    uint16_t batch_end; /* IN_ORDER: heads up to here in `order` are complete */
    uint32_t batch_len; /* what the batch's one entry says */
    unsigned free_count;
    uint16_t free_head;
    uint16_t *next_free;
    uint16_t *order; /* heads by avail index, IN_ORDER */
    struct kit_split_slot *slots;
};

/* A driver on an empty ring whose indices both stand at base. @rng: shuffles the slots; may be NULL
 */
void kit_split_driver_init(struct kit_split_driver *driver, const struct kit_memory *memory,
                           const struct kit_split *ring, uint64_t features, uint16_t base,
                           struct kit_rng *rng);

/* ---- Device ------------------------------------------------------------------------------ */

struct kit_split_device {
    struct kit_device device;
    const struct svq_map *map;
    struct kit_split ring;
    bool event_idx;
    bool indirect;
    uint16_t taken;     /* next avail entry */
    uint16_t completed; /* used index to come */
    uint16_t published; /* used index the driver sees */
};

/* A device that starts at base; its used index continues from the ring. */
void kit_split_device_init(struct kit_split_device *device, const struct svq_map *map,
                           const struct kit_split *ring, uint64_t features, uint16_t base);

#endif
