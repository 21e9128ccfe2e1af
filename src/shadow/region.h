/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A queue's part of the in-flight region: its layout (vhost-user, "Inflight I/O tracking"), and the
 * way from bytes that anybody may have written to what can be relied on.
 */
#ifndef SVQ_SHADOW_REGION_H
#define SVQ_SHADOW_REGION_H

#include <assert.h>
#include <stddef.h>

#include <shadowvq/inflight.h>

#include "ring/packed.h"

#define REGION_VERSION 1u

/* ---- Split: an entry for each descriptor of the ring's table, meaningful for heads ----------- */

struct region_split_entry {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next;    /* the head used before this one */
    uint64_t counter; /* tells the order in which heads were taken */
};

struct region_split {
    uint64_t features;
    uint16_t version; /* 0: nobody has used it */
    uint16_t entries;
    uint16_t last_batch; /* the head used last */
    uint16_t used_idx;   /* the used ring's, up to which `inflight` is right */
    struct region_split_entry entry[];
};

/* ---- Packed: copies of the descriptors in flight, linked; the other entries are free ----------
 */

struct region_packed_entry {
    uint8_t inflight; /* of a chain's first entry, like last, num and counter */
    uint8_t padding;
    uint16_t next; /* of the chain or of the free list, which ends with the number of entries */
    uint16_t last;
    uint16_t num;
    uint64_t counter;
    struct {
        uint16_t id;
        uint16_t flags;
        uint32_t len;
        uint64_t addr;
    } desc;
};

/* How far the ring is used, now and before the update under way: one word, so that it can be
 * stored at once. */
union region_used {
    struct {
        uint16_t idx;
        uint16_t old_idx;
        uint8_t wrap;
        uint8_t old_wrap;
        uint8_t padding[2];
    };
    uint64_t word;
};

struct region_packed {
    uint64_t features;
    uint16_t version;
    uint16_t entries;
    uint16_t free_head;
    uint16_t old_free_head;
    union region_used used;
    uint8_t padding[8];
    struct region_packed_entry entry[];
};

static_assert(sizeof(struct region_split_entry) == 16, "as the specification has it");
static_assert(offsetof(struct region_split, entry) == 16, "as the specification has it");
static_assert(sizeof(struct region_packed_entry) == 32, "as the specification has it");
static_assert(offsetof(struct region_packed, used) == 16, "as the specification has it");
static_assert(offsetof(struct region_packed, entry) == 32, "as the specification has it");

/* ---- What a part says ------------------------------------------------------------------------ */

/* A chain in flight. */
struct region_chain {
    uint64_t counter;
    uint16_t head; /* split: of the ring's table; packed: of the part's entries */
    uint16_t last; /* packed */
    uint16_t num;  /* slots of the guest's ring; split: 1, of the available ring */
};

/* A part, read and checked: as it is after the specification's recovery. */
struct region {
    bool tracked;
    struct packed_place used; /* split: the index */
    struct region_chain *chains;
    unsigned count;   /* of chains, oldest first */
    unsigned slots;   /* that they have together */
    uint64_t counter; /* for the next one */

    /* Private copy of the part; inflight is cleared where it means nothing. */
    union {
        void *copy;
        struct region_split *split;
        struct region_packed *packed;
    };
    uint16_t free_head; /* packed; */
    uint16_t *lost;     /* entries that are neither free nor in flight */
    unsigned lost_count;
};

/* As svq_inflight_read(), or -ENOMEM. region_free() in any case. */
int region_read(struct region *region, const void *part, enum svq_ring_format format,
                unsigned entries, unsigned num, const struct svq_vring *guest);
void region_free(struct region *region);

#endif
