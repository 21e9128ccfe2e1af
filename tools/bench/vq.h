/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Both ends of a virtqueue for `svq-bench path` (virtio 1.3, 2.7 and 2.8): what ends.h has, and
 * more. These live in different places of memory, sleep and wake each other, stop and go on.
 *
 * Everything is inline and takes the format as a constant, so that a turn over a batch is one piece
 * of code without calls. A queue belongs to one thread. Chains have a fixed number of descriptors.
 */
#ifndef SVQ_BENCH_VQ_H
#define SVQ_BENCH_VQ_H

#include <stdbool.h>
#include <stdint.h>

#define VQ_NEXT     0x1u
#define VQ_WRITE    0x2u
#define VQ_INDIRECT 0x4u
#define VQ_AVAIL    0x80u
#define VQ_USED     0x8000u

#define VQ_INLINE static inline __attribute__((always_inline))

struct vq_split_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct vq_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
};

struct vq_used_elem {
    uint32_t id;
    uint32_t len;
};

struct vq_used {
    uint16_t flags;
    uint16_t idx;
    struct vq_used_elem ring[];
};

struct vq_packed_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};

/* Packed: when an end wants to be notified; read and written in one piece. */
enum { VQ_EVENT_ENABLE, VQ_EVENT_DISABLE, VQ_EVENT_DESC };

struct vq_seg {
    uint64_t addr;
    uint32_t len;
    bool write;
};

/* One end's view. */
struct vq {
    bool packed;
    bool event_idx;
    uint16_t mask;
    unsigned num;
    unsigned stride; /* descriptors of a chain */
    void *desc;
    void *driver; /* split: the available ring; packed: an event word */
    void *device; /* split: the used ring; packed: an event word */

    uint16_t avail;  /* next to be made available, or to be taken. Split: free-running */
    uint16_t used;   /* next to be used, or to be taken back */
    uint16_t limit;  /* split: how far the other end was at the last look */
    bool avail_wrap; /* packed: the wrap counters that belong to these places */
    bool used_wrap;
    uint16_t first; /* packed: filled and not shown: flags to be stored last */
    uint16_t first_flags;
    unsigned hidden; /* descriptors (split: entries) that the other end was not shown yet */
};

/* ---- Places in a packed ring ---- */

VQ_INLINE void vq_step(const struct vq *q, uint16_t *at, bool *wrap, unsigned by)
{
    unsigned next = *at + by;

    if (next >= q->num) {
        next -= q->num;
        *wrap = !*wrap;
    }
    *at = (uint16_t)next;
}

/* Did a batch of `since` descriptors that ends before this place pass the event's? */
VQ_INLINE bool vq_passed(const struct vq *q, uint32_t event, uint16_t at, bool wrap, unsigned since)
{
    /* A place is a number on a circle of two laps. */
    unsigned end = at + (wrap ? 0 : q->num);
    unsigned from = (event & 0x7fff) + (event & 0x8000 ? 0 : q->num);
    unsigned behind = end >= from ? end - from : end + 2 * q->num - from;

    return behind && behind <= since;
}

VQ_INLINE bool vq_event_wants(const struct vq *q, const void *word, uint16_t at, bool wrap,
                              unsigned since)
{
    uint32_t event = __atomic_load_n((const uint32_t *)word, __ATOMIC_RELAXED);

    if (event >> 16 == VQ_EVENT_DESC)
        return vq_passed(q, event, at, wrap, since);
    return event >> 16 == VQ_EVENT_ENABLE;
}

/* Release the flags of what was filled first: the other end acquires them, and sees all of it. */
VQ_INLINE void vq_packed_show(struct vq *q)
{
    struct vq_packed_desc *desc = q->desc;

    __atomic_store_n(&desc[q->first].flags, q->first_flags, __ATOMIC_RELEASE);
}

VQ_INLINE void vq_packed_flags(struct vq *q, uint16_t at, unsigned flags)
{
    struct vq_packed_desc *desc = q->desc;

    if (!q->hidden) {
        q->first = at;
        q->first_flags = (uint16_t)flags;
    } else {
        /* Release, too: who got this far, with an acquire, may see it before the first one. */
        __atomic_store_n(&desc[at].flags, (uint16_t)flags, __ATOMIC_RELEASE);
    }
}

/* ---- Driver ---- */

VQ_INLINE void vq_put(struct vq *q, const bool packed, uint16_t id, const struct vq_seg *segs)
{
    for (unsigned i = 0; i < q->stride; i++) {
        unsigned flags = (segs[i].write ? VQ_WRITE : 0) | (i + 1 < q->stride ? VQ_NEXT : 0);

        if (packed) {
            struct vq_packed_desc *desc = (struct vq_packed_desc *)q->desc + q->avail;

            desc->addr = segs[i].addr;
            desc->len = segs[i].len;
            desc->id = id;
            vq_packed_flags(q, q->avail, flags | (q->avail_wrap ? VQ_AVAIL : VQ_USED));
            vq_step(q, &q->avail, &q->avail_wrap, 1);
            q->hidden++;
        } else {
            uint16_t at = (uint16_t)(id * q->stride + i);

            ((struct vq_split_desc *)q->desc)[at] = (struct vq_split_desc){
                segs[i].addr, segs[i].len, (uint16_t)flags, (uint16_t)(at + 1)};
        }
    }
    if (!packed) {
        struct vq_avail *avail = q->driver;

        avail->ring[q->avail++ & q->mask] = (uint16_t)(id * q->stride);
        q->hidden++;
    }
}

/* Show the device what was put. Return: whether it wants a kick. */
VQ_INLINE bool vq_publish(struct vq *q, const bool packed)
{
    unsigned since = q->hidden;
    struct vq_avail *avail = q->driver;
    const struct vq_used *used = q->device;

    if (!since)
        return false;
    if (packed)
        vq_packed_show(q);
    else
        /* Release: pairs with vq_has_avail()'s acquire, or svqd's; descriptors come before it. */
        __atomic_store_n(&avail->idx, q->avail, __ATOMIC_RELEASE);
    q->hidden = 0;
    /* Pairs with the device's: it asks for kicks, fences, and looks again. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (packed)
        return vq_event_wants(q, q->device, q->avail, q->avail_wrap, since);
    if (q->event_idx) {
        const uint16_t *event = (const void *)&used->ring[q->num];

        return (uint16_t)(q->avail - __atomic_load_n(event, __ATOMIC_RELAXED) - 1) < since;
    }
    return !(__atomic_load_n(&used->flags, __ATOMIC_RELAXED) & 1);
}

VQ_INLINE bool vq_is_used(const struct vq *q)
{
    const struct vq_packed_desc *desc = q->desc;
    /* Acquire: pairs with the device's release of these flags. */
    unsigned flags = __atomic_load_n(&desc[q->used].flags, __ATOMIC_ACQUIRE);

    return (flags & (VQ_AVAIL | VQ_USED)) == (q->used_wrap ? VQ_AVAIL | VQ_USED : 0);
}

/* Is there something to take back? */
VQ_INLINE bool vq_has_used(struct vq *q, const bool packed)
{
    if (packed)
        return vq_is_used(q);
    if (q->limit == q->used)
        q->limit = __atomic_load_n(&((struct vq_used *)q->device)->idx, __ATOMIC_ACQUIRE);
    return q->limit != q->used;
}

/* Take back one chain; there must be one. `id` is what the device says, whatever that is. */
VQ_INLINE void vq_take_back(struct vq *q, const bool packed, uint32_t *id, uint32_t *len)
{
    if (packed) {
        const struct vq_packed_desc *desc = (struct vq_packed_desc *)q->desc + q->used;

        *id = desc->id;
        *len = desc->len;
        vq_step(q, &q->used, &q->used_wrap, q->stride);
    } else {
        const struct vq_used *used = q->device;
        struct vq_used_elem elem = used->ring[q->used++ & q->mask];

        /* A head between chains comes out as an id that nobody has. */
        *id = elem.id % q->stride ? UINT32_MAX : elem.id / q->stride;
        *len = elem.len;
    }
}

/* ---- Device ---- */

VQ_INLINE bool vq_is_avail(const struct vq *q)
{
    const struct vq_packed_desc *desc = q->desc;
    /* Acquire: pairs with the driver's release of these flags. */
    unsigned flags = __atomic_load_n(&desc[q->avail].flags, __ATOMIC_ACQUIRE);

    return (flags & (VQ_AVAIL | VQ_USED)) == (q->avail_wrap ? VQ_AVAIL : VQ_USED);
}

VQ_INLINE bool vq_has_avail(struct vq *q, const bool packed)
{
    if (packed)
        return vq_is_avail(q);
    if (q->limit == q->avail)
        q->limit = __atomic_load_n(&((struct vq_avail *)q->driver)->idx, __ATOMIC_ACQUIRE);
    return q->limit != q->avail;
}

/* Take a chain of one descriptor; there must be one. Return: false for any other chain. */
VQ_INLINE bool vq_take(struct vq *q, const bool packed, uint16_t *id, struct vq_seg *seg)
{
    unsigned flags;

    if (packed) {
        const struct vq_packed_desc *desc = (struct vq_packed_desc *)q->desc + q->avail;

        flags = desc->flags;
        *id = desc->id;
        *seg = (struct vq_seg){desc->addr, desc->len, flags & VQ_WRITE};
        vq_step(q, &q->avail, &q->avail_wrap, 1);
    } else {
        const struct vq_avail *avail = q->driver;
        const struct vq_split_desc *desc;

        *id = avail->ring[q->avail++ & q->mask];
        if (*id > q->mask)
            return false;
        desc = (struct vq_split_desc *)q->desc + *id;
        flags = desc->flags;
        *seg = (struct vq_seg){desc->addr, desc->len, flags & VQ_WRITE};
    }
    return !(flags & (VQ_NEXT | VQ_INDIRECT));
}

VQ_INLINE void vq_use(struct vq *q, const bool packed, uint16_t id, uint32_t len)
{
    if (packed) {
        struct vq_packed_desc *desc = (struct vq_packed_desc *)q->desc + q->used;

        desc->id = id;
        desc->len = len;
        vq_packed_flags(q, q->used, (len ? VQ_WRITE : 0) | (q->used_wrap ? VQ_AVAIL | VQ_USED : 0));
        vq_step(q, &q->used, &q->used_wrap, 1);
    } else {
        struct vq_used *used = q->device;

        used->ring[q->used++ & q->mask] = (struct vq_used_elem){id, len};
    }
    q->hidden++;
}

/* Show the driver what was used. Return: whether it wants a call. */
VQ_INLINE bool vq_complete(struct vq *q, const bool packed)
{
    unsigned since = q->hidden;
    const struct vq_avail *avail = q->driver;
    struct vq_used *used = q->device;

    if (!since)
        return false;
    if (packed)
        vq_packed_show(q);
    else
        /* Release: pairs with vq_has_used()'s acquire, or svqd's; used entries come before it. */
        __atomic_store_n(&used->idx, q->used, __ATOMIC_RELEASE);
    q->hidden = 0;
    /* Pairs with the driver's: it asks for calls, fences, and looks again. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (packed)
        return vq_event_wants(q, q->driver, q->used, q->used_wrap, since);
    if (q->event_idx) {
        uint16_t event = __atomic_load_n(&avail->ring[q->num], __ATOMIC_RELAXED);

        return (uint16_t)(q->used - event - 1) < since;
    }
    return !(__atomic_load_n(&avail->flags, __ATOMIC_RELAXED) & 1);
}

/* ---- Sleeping; these are not for turns ---- */

/* An end at its beginning. @rings: zeroed by the driver. */
void vq_init(struct vq *q, bool packed, bool event_idx, unsigned num, unsigned stride);

/* A device goes on where SET_VRING_BASE says; and says where it is. */
void vq_device_resume(struct vq *q, uint32_t base);
uint32_t vq_device_base(const struct vq *q);

/* Ask for notifications. Return: whether there is something already, so that none may come. */
bool vq_want_calls(struct vq *q);
bool vq_want_kicks(struct vq *q);
/* With event_idx one in 65,536 may come all the same. */
void vq_refuse_calls(struct vq *q);
void vq_refuse_kicks(struct vq *q);

#endif
