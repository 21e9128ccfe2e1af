/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The split virtqueue (virtio 1.3 section 2.7), seen as a device sees a guest's ring and as a
 * driver sees a back-end's. Pure memory: no system call, no allocation, no opinion about what
 * chains mean.
 *
 * Each shared word is read once and written once, through the accessors below; who holds the other
 * end of a barrier is named beside it. Rings are little endian, as virtio 1 has them; legacy
 * devices use the guest's order, which on the machines we run on is the same.
 */
#ifndef SVQ_RING_SPLIT_H
#define SVQ_RING_SPLIT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/relay.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are used without byte swapping");

#define SPLIT_DESC_F_NEXT     0x1u
#define SPLIT_DESC_F_WRITE    0x2u
#define SPLIT_DESC_F_INDIRECT 0x4u

#define SPLIT_AVAIL_F_NO_INTERRUPT 0x1u
#define SPLIT_USED_F_NO_NOTIFY     0x1u

/* Two words: read and written as such. */
struct split_desc {
    uint64_t addr;
    union {
        struct {
            uint32_t len;
            uint16_t flags;
            uint16_t next;
        };
        uint64_t rest;
    };
};

struct split_used_elem {
    uint32_t id;
    uint32_t len;
};

struct split_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[]; /* then used_event */
};

struct split_used {
    uint16_t flags;
    uint16_t idx;
    struct split_used_elem ring[]; /* then avail_event */
};

/* Either end of a ring: where it is, and how far it has come. */
struct split_ring {
    struct split_desc *desc;
    struct split_avail *avail;
    struct split_used *used;
    uint16_t num;
    uint16_t mask;
    uint16_t avail_idx; /* device: next to take; driver: next to put */
    uint16_t used_idx;  /* device: next to put; driver: next to take */
    uint16_t published; /* the index that the other end was last notified about */
    bool published_valid;
    bool event_idx;
};

#define SPLIT_LOAD(field)         __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define SPLIT_STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

static inline void split_init(struct split_ring *r, const struct svq_vring *ring, unsigned num,
                              bool event_idx)
{
    *r = (struct split_ring){
        .desc = ring->desc,
        .avail = ring->driver,
        .used = ring->device,
        .num = num,
        .mask = num - 1,
        .event_idx = event_idx,
    };
}

static inline uint16_t *split_used_event(const struct split_ring *r)
{
    return &r->avail->ring[r->num];
}

static inline uint16_t *split_avail_event(const struct split_ring *r)
{
    return (uint16_t *)&r->used->ring[r->num];
}

/*
 * virtio 1.3 section 2.7.10: was the other end's event index passed between the notification it had
 * last (old) and now?
 */
static inline bool split_event_passed(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* Where the used entry is that comes so many after the next one, for either end. */
static inline struct split_used_elem *split_used_place(const struct split_ring *r, unsigned ahead)
{
    return &r->used->ring[(r->used_idx + ahead) & r->mask];
}

/* ---- As the device, towards a guest ---------------------------------------------------------- */

/* How many chains wait; more than num means that the driver lies. */
static inline uint16_t split_device_waiting(const struct split_ring *r)
{
    /* Acquire: pairs with the driver's release of avail.idx; entries and descriptors follow it. */
    return __atomic_load_n(&r->avail->idx, __ATOMIC_ACQUIRE) - r->avail_idx;
}

/* The head of the next waiting chain, unchecked. */
static inline uint16_t split_device_head(const struct split_ring *r)
{
    return SPLIT_LOAD(r->avail->ring[r->avail_idx & r->mask]);
}

/* One look at a shared descriptor; everything after that works on the copy. */
static inline struct split_desc split_read_desc(const struct split_desc *shared)
{
    return (struct split_desc){.addr = SPLIT_LOAD(shared->addr), .rest = SPLIT_LOAD(shared->rest)};
}

/* Write a used entry; the driver sees it after split_device_publish(). */
static inline void split_device_put(struct split_ring *r, uint32_t id, uint32_t len)
{
    struct split_used_elem *e = &r->used->ring[r->used_idx & r->mask];

    SPLIT_STORE(e->id, id);
    SPLIT_STORE(e->len, len);
    r->used_idx++;
}

static inline void split_device_publish(struct split_ring *r)
{
    /* Release: pairs with the driver's acquire of used.idx; the entries come before it. */
    __atomic_store_n(&r->used->idx, r->used_idx, __ATOMIC_RELEASE);
}

/* After publishing: does the driver want to be interrupted? */
static inline bool split_device_must_call(struct split_ring *r)
{
    uint16_t old = r->published;
    bool valid = r->published_valid;

    /* Pairs with the driver's fence between asking for interrupts and looking at used.idx. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!r->event_idx)
        return !(SPLIT_LOAD(r->avail->flags) & SPLIT_AVAIL_F_NO_INTERRUPT);
    r->published = r->used_idx;
    r->published_valid = true;
    return !valid || split_event_passed(SPLIT_LOAD(*split_used_event(r)), r->used_idx, old);
}

/* Ask the driver to kick (or not to). With EVENT_IDX "not" means an event index left behind. */
static inline void split_device_ask(struct split_ring *r, bool kick)
{
    if (!r->event_idx)
        SPLIT_STORE(r->used->flags, kick ? 0 : SPLIT_USED_F_NO_NOTIFY);
    else if (kick)
        SPLIT_STORE(*split_avail_event(r), r->avail_idx);
}

/* ---- As the driver, towards a back-end --------------------------------------------------------
 */

/* How many completions wait; more than are outstanding means that the device lies. */
static inline uint16_t split_driver_waiting(const struct split_ring *r)
{
    /* Acquire: pairs with the device's release of used.idx; entries and data follow it. */
    return __atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE) - r->used_idx;
}

static inline struct split_used_elem split_driver_elem(const struct split_ring *r)
{
    const struct split_used_elem *e = &r->used->ring[r->used_idx & r->mask];

    return (struct split_used_elem){SPLIT_LOAD(e->id), SPLIT_LOAD(e->len)};
}

/* Forget all flags but these. Of the word, since it is stored as one. */
static inline void split_keep_flags(struct split_desc *d, uint16_t flags)
{
    const struct split_desc kept = {.len = UINT32_MAX, .flags = flags, .next = UINT16_MAX};

    d->rest &= kept.rest;
}

/* The same, and another link. */
static inline void split_relink(struct split_desc *d, uint16_t flags, uint16_t next)
{
    const struct split_desc kept = {.len = UINT32_MAX, .flags = flags};

    d->rest = (d->rest & kept.rest) | (uint64_t)next << 48;
}

/*
 * The same, and the link of another descriptor. Not by its 16 bits alone: where gcc runs out of
 * registers it stores those and reads 64 back, which waits until the store has left the processor.
 */
static inline void split_link_as(struct split_desc *d, uint16_t flags,
                                 const struct split_desc *other)
{
    const struct split_desc kept = {.len = UINT32_MAX, .flags = flags};

    d->rest = (d->rest & kept.rest) | (other->rest & UINT64_C(0xffff) << 48);
}

static inline void split_write_desc(struct split_desc *shared, const struct split_desc *d)
{
    SPLIT_STORE(shared->addr, d->addr);
    SPLIT_STORE(shared->rest, d->rest);
}

/* Write an available entry; the device sees it after split_driver_publish(). */
static inline void split_driver_put(struct split_ring *r, uint16_t head)
{
    SPLIT_STORE(r->avail->ring[r->avail_idx & r->mask], head);
    r->avail_idx++;
}

/* A chain of one descriptor. */
static inline void split_driver_put_one(struct split_ring *r, uint16_t head,
                                        const struct split_desc *d)
{
    split_write_desc(&r->desc[head], d);
    split_driver_put(r, head);
}

static inline void split_driver_publish(struct split_ring *r)
{
    /* Release: pairs with the device's acquire of avail.idx; entries and descriptors before it. */
    __atomic_store_n(&r->avail->idx, r->avail_idx, __ATOMIC_RELEASE);
}

/* After publishing: does the device want a kick? */
static inline bool split_driver_must_kick(struct split_ring *r)
{
    uint16_t old = r->published;
    bool valid = r->published_valid;

    /* Pairs with the device's fence between asking for kicks and looking at avail.idx. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!r->event_idx)
        return !(SPLIT_LOAD(r->used->flags) & SPLIT_USED_F_NO_NOTIFY);
    r->published = r->avail_idx;
    r->published_valid = true;
    return !valid || split_event_passed(SPLIT_LOAD(*split_avail_event(r)), r->avail_idx, old);
}

/* Ask the device to call (or not to). */
static inline void split_driver_ask(struct split_ring *r, bool call)
{
    if (!r->event_idx)
        SPLIT_STORE(r->avail->flags, call ? 0 : SPLIT_AVAIL_F_NO_INTERRUPT);
    else if (call)
        SPLIT_STORE(*split_used_event(r), r->used_idx);
}

/* Ask the device not to call, whatever it completes: with EVENT_IDX, an index half a round away. */
static inline void split_driver_silence(struct split_ring *r)
{
    if (r->event_idx)
        SPLIT_STORE(*split_used_event(r), (uint16_t)(r->used_idx + 0x8000));
    else
        SPLIT_STORE(r->avail->flags, SPLIT_AVAIL_F_NO_INTERRUPT);
}

#endif
