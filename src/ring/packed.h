/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The packed virtqueue (virtio 1.3 section 2.8), seen as a device sees a guest's ring and as a
 * driver sees a back-end's. Pure memory, like ring/split.h.
 *
 * There is one ring. The driver makes descriptors available at avail_idx, the device overwrites
 * the first descriptor of a chain (any outstanding one's, as far as slots go) at used_idx; either
 * flips its wrap counter when it passes the end. A descriptor's AVAIL and USED flags, compared with
 * a wrap counter, say whose it is.
 *
 * A batch is published with the flags of its first descriptor, stored last: the other end, which
 * looks there first, sees nothing of the batch or all of it.
 */
#ifndef SVQ_RING_PACKED_H
#define SVQ_RING_PACKED_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/relay.h>

#include "ring/specialised.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are used without byte swapping");

#define PACKED_DESC_F_NEXT     0x1u
#define PACKED_DESC_F_WRITE    0x2u
#define PACKED_DESC_F_INDIRECT 0x4u
#define PACKED_DESC_F_AVAIL    0x80u
#define PACKED_DESC_F_USED     0x8000u

/* Event suppression (section 2.8.10): one 32-bit word, offset and wrap below, flags above. */
#define PACKED_EVENT_ENABLE  0x00000u
#define PACKED_EVENT_DISABLE 0x10000u
#define PACKED_EVENT_DESC    0x20000u
#define PACKED_EVENT_FLAGS   0x30000u

/* A wrap counter beside an offset: in event words and in bases. */
#define PACKED_WRAP 0x8000u

/* Two words: read and written as such. Whose it is, the second one says. */
struct packed_desc {
    uint64_t addr;
    union {
        struct {
            uint32_t len;
            uint16_t id;
            uint16_t flags;
        };
        uint64_t rest;
    };
};

/* An offset into the ring, in the lap that the wrap counter names. */
struct packed_place {
    uint16_t idx;
    bool wrap;
};

/* Either end of a ring: where it is, and how far it has come. */
struct packed_ring {
    struct packed_desc *desc;
    uint32_t *driver; /* the driver's event suppression: it writes, the device reads */
    uint32_t *device; /* the device's */
    uint16_t num;
    bool event_idx;
    struct packed_place avail; /* device: next to take; driver: next to put */
    struct packed_place used;  /* device: next to put; driver: next to take */

    /* The batch under way; nothing is, while it is empty. */
    uint16_t batch; /* descriptors; device: of completed chains */
    uint16_t first; /* where it begins, */
    uint16_t first_flags;
};

#define PACKED_LOAD(field)         __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define PACKED_STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

static inline void packed_init(struct packed_ring *r, const struct svq_vring *ring, unsigned num,
                               bool event_idx, uint32_t base)
{
    struct svq_ring_index index = svq_packed_index(base);

    *r = (struct packed_ring){
        .desc = ring->desc,
        .driver = ring->driver,
        .device = ring->device,
        .num = num,
        .event_idx = event_idx,
        .avail = {index.avail, index.avail_wrap},
        .used = {index.used, index.used_wrap},
    };
}

/* count: at most num. */
SPECIALISED void packed_advance(const struct packed_ring *r, struct packed_place *p, unsigned count)
{
    unsigned idx = p->idx + count;

    if (idx >= r->num) {
        idx -= r->num;
        p->wrap = !p->wrap;
    }
    p->idx = idx;
}

/* How far it is to the end of the ring: within that, going on is no more than adding to idx; */
static inline unsigned packed_straight(const struct packed_ring *r, const struct packed_place *p)
{
    return r->num - p->idx;
}

/* afterwards the place may have to come round. */
static inline void packed_come_round(const struct packed_ring *r, struct packed_place *p)
{
    packed_advance(r, p, 0);
}

static inline void packed_rewind(const struct packed_ring *r, struct packed_place *p,
                                 unsigned count)
{
    int idx = (int)p->idx - (int)count;

    if (idx < 0) {
        idx += r->num;
        p->wrap = !p->wrap;
    }
    p->idx = idx;
}

/* Descriptors from one place to a later one; outside of 0 to num when there is no such way. */
static inline int packed_distance(const struct packed_ring *r, struct packed_place from,
                                  struct packed_place to)
{
    return (int)to.idx - (int)from.idx + (from.wrap != to.wrap ? (int)r->num : 0);
}

static inline uint16_t packed_avail_flags(bool wrap)
{
    return wrap ? PACKED_DESC_F_AVAIL : PACKED_DESC_F_USED;
}

static inline uint16_t packed_used_flags(bool wrap)
{
    return wrap ? PACKED_DESC_F_AVAIL | PACKED_DESC_F_USED : 0;
}

/* A descriptor's second word, of the batch under way. */
SPECIALISED void packed_put_rest(struct packed_ring *r, uint16_t idx, uint32_t len, uint16_t id,
                                 uint16_t flags)
{
    const struct packed_desc d = {.len = len, .id = id, .flags = flags};

    if (r->batch) {
        PACKED_STORE(r->desc[idx].rest, d.rest);
        return;
    }
    PACKED_STORE(r->desc[idx].len, len);
    PACKED_STORE(r->desc[idx].id, id);
    r->first = idx;
    r->first_flags = flags;
}

static inline void packed_end(struct packed_ring *r)
{
    /* Release: pairs with the other end's acquire of the flags; the batch comes before them. */
    __atomic_store_n(&r->desc[r->first].flags, r->first_flags, __ATOMIC_RELEASE);
}

/*
 * After publishing: does the other end want to be notified of the batch that ended at `now`?
 * Return: 1 or 0; -1 when what it asks for makes no sense.
 */
static inline int packed_must_notify(struct packed_ring *r, const uint32_t *event,
                                     struct packed_place now)
{
    int batch = r->batch, asked;
    uint32_t word;

    r->batch = 0;
    /* Pairs with the other end's fence between asking for notifications and looking at flags. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    word = PACKED_LOAD(*event);
    switch (word & PACKED_EVENT_FLAGS) {
    case PACKED_EVENT_ENABLE:
        return 1;
    case PACKED_EVENT_DISABLE:
        return 0;
    case PACKED_EVENT_DESC:
        break;
    default:
        return -1;
    }
    asked = word & (PACKED_WRAP - 1);
    if (!r->event_idx || asked >= r->num)
        return -1;
    /* An offset of the other wrap lies in the lap before this one, or is yet to come. */
    if (!!(word & PACKED_WRAP) != now.wrap)
        asked -= r->num;
    return asked < now.idx && asked >= now.idx - batch;
}

/* The event word that asks for a notification at a place, or for none. */
static inline uint32_t packed_event_word(const struct packed_ring *r, bool ask,
                                         struct packed_place at)
{
    if (!ask)
        return PACKED_EVENT_DISABLE;
    if (!r->event_idx)
        return PACKED_EVENT_ENABLE;
    return PACKED_EVENT_DESC | (at.wrap ? PACKED_WRAP : 0) | at.idx;
}

/* ---- As the device, towards a guest ---------------------------------------------------------- */

static inline bool packed_is_available(uint16_t flags, bool wrap)
{
    return (flags & (PACKED_DESC_F_AVAIL | PACKED_DESC_F_USED)) == packed_avail_flags(wrap);
}

/* Is there a chain to take? */
static inline bool packed_device_waiting(const struct packed_ring *r)
{
    /* Acquire: pairs with the driver's release of the flags; the chain comes before them. */
    uint16_t flags = __atomic_load_n(&r->desc[r->avail.idx].flags, __ATOMIC_ACQUIRE);

    return packed_is_available(flags, r->avail.wrap);
}

/* How many descriptors may be available beyond those taken. */
static inline unsigned packed_device_room(const struct packed_ring *r)
{
    return r->num - packed_distance(r, r->used, r->avail);
}

/*
 * One look at a shared descriptor; everything after that works on the copy. @flags: read before,
 * and they count as they were then
 */
static inline struct packed_desc packed_read_rest(const struct packed_desc *shared, uint16_t flags)
{
    struct packed_desc d = {.addr = PACKED_LOAD(shared->addr), .rest = PACKED_LOAD(shared->rest)};

    d.flags = flags;
    return d;
}

static inline struct packed_desc packed_read_desc(const struct packed_desc *shared)
{
    /* Acquire: pairs with the driver's release of the flags; all else comes before them. */
    uint16_t flags = __atomic_load_n(&shared->flags, __ATOMIC_ACQUIRE);

    return packed_read_rest(shared, flags);
}

/* The same of one that may not be available: then nothing else of it is looked at. */
static inline bool packed_read_available(const struct packed_desc *shared, bool wrap,
                                         struct packed_desc *d)
{
    /* Acquire: as above. */
    uint16_t flags = __atomic_load_n(&shared->flags, __ATOMIC_ACQUIRE);

    if (!packed_is_available(flags, wrap))
        return false;
    *d = packed_read_rest(shared, flags);
    return true;
}

/* A chain of one descriptor is used, without going on to the next place. */
static inline void packed_device_write(struct packed_ring *r, uint16_t id, uint32_t len)
{
    uint16_t flags = packed_used_flags(r->used.wrap) | (len ? PACKED_DESC_F_WRITE : 0);

    packed_put_rest(r, r->used.idx, len, id, flags);
    r->batch++;
}

/* A chain of so many descriptors is used; the driver sees it after packed_device_publish(). */
SPECIALISED void packed_device_put(struct packed_ring *r, uint16_t id, uint32_t len, unsigned descs)
{
    uint16_t flags = packed_used_flags(r->used.wrap) | (len ? PACKED_DESC_F_WRITE : 0);

    packed_put_rest(r, r->used.idx, len, id, flags);
    r->batch += descs;
    packed_advance(r, &r->used, descs);
}

static inline void packed_device_publish(struct packed_ring *r)
{
    packed_end(r);
}

static inline int packed_device_must_call(struct packed_ring *r)
{
    return packed_must_notify(r, r->driver, r->used);
}

/* Ask the driver to kick, or not to. */
static inline void packed_device_ask(struct packed_ring *r, bool kick)
{
    PACKED_STORE(*r->device, packed_event_word(r, kick, r->avail));
}

/* ---- As the driver, towards a back-end ------------------------------------------------------- */

static inline bool packed_is_used(uint16_t flags, bool wrap)
{
    return (flags & (PACKED_DESC_F_AVAIL | PACKED_DESC_F_USED)) == packed_used_flags(wrap);
}

/* Has the device used the next descriptor? */
static inline bool packed_driver_waiting(const struct packed_ring *r)
{
    /* Acquire: pairs with the device's release of the flags; id, len and data come before them. */
    uint16_t flags = __atomic_load_n(&r->desc[r->used.idx].flags, __ATOMIC_ACQUIRE);

    return packed_is_used(flags, r->used.wrap);
}

/*
 * Take the next descriptor, if the device has used it. Return: has it? Then with id and len in *d.
 */
static inline bool packed_driver_elem(const struct packed_ring *r, struct packed_desc *d)
{
    if (!packed_driver_waiting(r))
        return false;
    d->rest = PACKED_LOAD(r->desc[r->used.idx].rest);
    return true;
}

/* Write the next descriptor, without going on to the one after it. */
SPECIALISED void packed_driver_write(struct packed_ring *r, uint64_t addr, uint32_t len,
                                     uint16_t id, uint16_t flags)
{
    PACKED_STORE(r->desc[r->avail.idx].addr, addr);
    packed_put_rest(r, r->avail.idx, len, id, flags | packed_avail_flags(r->avail.wrap));
    r->batch++;
}

/* Write the next descriptor; the device sees it after packed_driver_publish(). */
SPECIALISED void packed_driver_put(struct packed_ring *r, uint64_t addr, uint32_t len, uint16_t id,
                                   uint16_t flags)
{
    packed_driver_write(r, addr, len, id, flags);
    packed_advance(r, &r->avail, 1);
}

static inline void packed_driver_publish(struct packed_ring *r)
{
    packed_end(r);
}

static inline int packed_driver_must_kick(struct packed_ring *r)
{
    return packed_must_notify(r, r->device, r->avail);
}

/* Ask the device to call, or not to. */
static inline void packed_driver_ask(struct packed_ring *r, bool call)
{
    PACKED_STORE(*r->driver, packed_event_word(r, call, r->used));
}

#endif
