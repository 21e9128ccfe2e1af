/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Both ends of a packed virtqueue (virtio 1.3 section 2.8), and the ring laid bare for tests that
 * break its rules. Little-endian hosts only.
 */
#ifndef SVQ_TESTS_KIT_PACKED_H
#define SVQ_TESTS_KIT_PACKED_H

#include "ring.h"

#define KIT_P_NEXT     0x0001u
#define KIT_P_WRITE    0x0002u
#define KIT_P_INDIRECT 0x0004u
#define KIT_P_AVAIL    0x0080u
#define KIT_P_USED     0x8000u

struct kit_pdesc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};

/* Event suppression: offset and wrap counter of a descriptor in `desc`, what is wanted in `flags`.
 */
struct kit_event {
    uint16_t desc;
    uint16_t flags;
};

#define KIT_EVENT_ENABLE  0u
#define KIT_EVENT_DISABLE 1u
#define KIT_EVENT_DESC    2u

/* A place in the ring: the offset of a descriptor and the wrap counter that goes with it. */
struct kit_place {
    uint16_t off;
    bool wrap;
};

static inline struct kit_place kit_place_at(uint16_t word)
{
    return (struct kit_place){word & 0x7fff, word >> 15};
}

static inline uint16_t kit_place_word(struct kit_place place)
{
    return (uint16_t)(place.off | place.wrap << 15);
}

static inline void kit_place_move(struct kit_place *place, unsigned num, unsigned by)
{
    unsigned off = place->off + by;

    if (off >= num) {
        off -= num;
        place->wrap = !place->wrap;
    }
    place->off = (uint16_t)off;
}

/* Descriptors from one place on to another, which is less than two rounds away. */
static inline unsigned kit_place_distance(struct kit_place from, struct kit_place to, unsigned num)
{
    unsigned at = from.off, end = to.off + (from.wrap != to.wrap ? num : 0);

    return end >= at ? end - at : end + 2 * num - at;
}

/* The flags that mark a descriptor as available or as used in the round of that wrap counter. */
static inline uint16_t kit_avail_flags(bool wrap)
{
    return wrap ? KIT_P_AVAIL : KIT_P_USED;
}

static inline uint16_t kit_used_flags(bool wrap)
{
    return wrap ? KIT_P_AVAIL | KIT_P_USED : 0;
}

/*
 * Do the descriptors that were made available or used from `old` on, `count` of them, ask for a
 * notification? 1, 0 or -EPROTO.
 */
int kit_event_wanted(const struct kit_event *event, bool event_idx, struct kit_place old,
                     unsigned count, unsigned num);
/* Both words at once: the other side may look at any moment. */
void kit_event_set(struct kit_event *event, uint16_t desc, uint16_t flags);

/* ---- Driver ------------------------------------------------------------------------------ */

struct kit_packed_chain {
    void *token;
    uint16_t slots; /* of the ring; 0: not in the ring */
    bool seen;      /* named by a used entry */
};

/* A used entry that was seen and not reaped yet. */
struct kit_packed_seen {
    struct kit_seen seen;
    uint16_t index; /* of the chain that it names */
    uint32_t len;
};

struct kit_packed_driver {
    struct kit_driver driver;
    struct kit_place added;    /* next descriptor to write */
    struct kit_place first;    /* first one that was written and not published */
    uint16_t first_flags;      /* what publishes it */
    unsigned unpublished;      /* descriptors from `first` on */
    struct kit_place used;     /* where the next used entry appears */
    unsigned free_slots;       /* descriptors */
    unsigned unseen;           /* descriptors of chains that no used entry has been seen for */
    struct kit_pdesc *written; /* what the driver wrote: a device may change used entries alone */

    /* Chains have an index below num; their ids are made of it, see id_of(). */
    struct kit_packed_chain *chains;
    uint16_t *spare;
    unsigned spare_count;
    uint16_t id_factor; /* odd */
    uint16_t id_offset;

    uint16_t *order; /* IN_ORDER: those in the ring, as they were added, a ring of num */
    unsigned order_first, order_count;
    unsigned order_seen; /* of them, how many are named by used entries or passed over */

    struct kit_packed_seen *seen; /* a ring of num */
    unsigned seen_first, seen_count;
};

struct kit_driver *kit_packed_driver_new(const struct kit_memory *memory,
                                         const struct kit_ring *ring, uint64_t features,
                                         uint16_t base, struct kit_rng *rng);

/* ---- Device ------------------------------------------------------------------------------ */

struct kit_packed_device {
    struct kit_device device;
    struct kit_place taken;     /* next descriptor to read */
    struct kit_place completed; /* next used entry to write */
    struct kit_place first;     /* first used entry that was written and not published */
    uint16_t first_flags;       /* what publishes it */
    unsigned unpublished;       /* descriptors from `first` on, those passed over included */
    unsigned held;              /* descriptors of chains that are out */
    uint16_t *slots;            /* by id: descriptors of the chain that is out by that id */
    uint16_t *order;            /* ids as they were taken, IN_ORDER */
    unsigned order_first, order_count;
};

struct kit_device *kit_packed_device_new(const struct svq_map *map, const struct kit_ring *ring,
                                         uint64_t features, uint32_t base);

#endif
