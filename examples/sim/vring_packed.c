/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A driver's packed ring (virtio 1.3 section 2.8). What is added is hidden behind the first
 * descriptor's flags, which sim_vring_publish() stores last.
 */
#include <stdatomic.h>

#include "vring_internal.h"

#define DESC_F_AVAIL (1u << 7)
#define DESC_F_USED  (1u << 15)

#define EVENT_ENABLE  0u
#define EVENT_DISABLE 1u
#define EVENT_DESC    2u

struct sim_packed_desc {
    _Atomic uint64_t addr;
    _Atomic uint32_t len;
    _Atomic uint16_t id;
    _Atomic uint16_t flags;
};

/* Offset and wrap counter in the lower half, flags in the upper one. */
struct sim_packed_event {
    _Atomic uint32_t word;
};

_Static_assert(sizeof(struct sim_packed_desc) == DESC_BYTES, "virtio 1.3, 2.8.13");
_Static_assert(sizeof(struct sim_packed_event) == 4, "virtio 1.3, 2.8.14");

struct sim_vring_sizes sim_packed_sizes(unsigned num)
{
    return (struct sim_vring_sizes){.desc = (uint64_t)num * DESC_BYTES,
                                    .avail = sizeof(struct sim_packed_event),
                                    .used = sizeof(struct sim_packed_event)};
}

void sim_packed_attach(struct sim_vring *ring)
{
    struct sim_vring_sizes size = sim_packed_sizes(ring->num);

    ring->packed.desc = sim_memory_ptr(ring->mem, ring->desc_gpa, size.desc);
    ring->packed.driver = sim_memory_ptr(ring->mem, ring->avail_gpa, size.avail);
    ring->packed.device = sim_memory_ptr(ring->mem, ring->used_gpa, size.used);
}

static struct sim_place step(const struct sim_vring *ring, struct sim_place at, unsigned slots)
{
    unsigned index = at.index + slots;

    return index < ring->num
               ? (struct sim_place){.index = (uint16_t)index, .wrap = at.wrap}
               : (struct sim_place){.index = (uint16_t)(index - ring->num), .wrap = !at.wrap};
}

/* How many slots lie between two places, the second of which is the later one. */
static unsigned distance(const struct sim_vring *ring, struct sim_place from, struct sim_place to)
{
    return to.index - from.index + (from.wrap != to.wrap ? ring->num : 0);
}

static void write_desc(struct sim_memory *mem, struct sim_packed_desc *desc, uint64_t gpa,
                       struct sim_segment segment, uint16_t id)
{
    atomic_store_explicit(&desc->addr, segment.gpa, memory_order_relaxed);
    atomic_store_explicit(&desc->len, segment.len, memory_order_relaxed);
    atomic_store_explicit(&desc->id, id, memory_order_relaxed);
    sim_memory_mark(mem, gpa, DESC_BYTES);
}

/* Fill the next slot of the ring. */
static void fill(struct sim_vring *ring, struct sim_segment segment, unsigned flags, uint16_t id)
{
    struct sim_packed *p = &ring->packed;
    struct sim_packed_desc *desc = &p->desc[p->avail.index];
    uint64_t gpa = ring->desc_gpa + (uint64_t)p->avail.index * DESC_BYTES;

    flags |= p->avail.wrap ? DESC_F_AVAIL : DESC_F_USED;
    write_desc(ring->mem, desc, gpa, segment, id);
    if (p->hidden++) {
        /* Release: a device that got this far may not wait for what comes before it. */
        atomic_store_explicit(&desc->flags, (uint16_t)flags, memory_order_release);
    } else {
        p->first = p->avail;
        p->first_flags = (uint16_t)flags;
    }
    p->avail = step(ring, p->avail, 1);
}

static struct sim_segment write_table(struct sim_vring *ring, const struct sim_segment *segments,
                                      unsigned out, unsigned count, uint64_t gpa)
{
    struct sim_packed_desc *table = sim_memory_ptr(ring->mem, gpa, (uint64_t)count * DESC_BYTES);

    for (unsigned i = 0; i < count; i++) {
        /* Nothing but WRITE means anything here, and all else is to be zero. */
        write_desc(ring->mem, &table[i], gpa + (uint64_t)i * DESC_BYTES, segments[i], 0);
        atomic_store_explicit(&table[i].flags, i >= out ? DESC_F_WRITE : 0, memory_order_relaxed);
    }
    return (struct sim_segment){.gpa = gpa, .len = count * DESC_BYTES};
}

void sim_packed_add(struct sim_vring *ring, struct sim_chain *chain,
                    const struct sim_segment *segments, unsigned out, unsigned count,
                    uint64_t table)
{
    uint16_t id = ring->free_head;

    ring->free_head = ring->next[id];
    chain->last = id;
    if (table != SIM_NO_GPA) {
        fill(ring, write_table(ring, segments, out, count, table), DESC_F_INDIRECT, id);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        bool last = i + 1 == count;

        /* Only the last one's id counts. */
        fill(ring, segments[i], (i >= out ? DESC_F_WRITE : 0) | (last ? 0 : DESC_F_NEXT),
             last ? id : UINT16_MAX);
    }
}

/* `end` is where a peer's batch of `since` slots ended: did it step over the event's place? */
static bool passed(const struct sim_vring *ring, uint32_t event, struct sim_place end,
                   unsigned since)
{
    struct sim_place at = {.index = event & 0x7fff, .wrap = event >> 15 & 1};
    unsigned behind = distance(ring, at, end);

    /* An event that lies ahead comes out as a huge distance. */
    return behind && behind <= since;
}

bool sim_packed_publish(struct sim_vring *ring)
{
    struct sim_packed *p = &ring->packed;
    unsigned since = p->hidden;
    uint32_t event;

    if (!since)
        return false;
    p->hidden = 0;
    atomic_store_explicit(&p->desc[p->first.index].flags, p->first_flags, memory_order_release);
    sim_memory_mark(ring->mem, ring->desc_gpa + (uint64_t)p->first.index * DESC_BYTES, DESC_BYTES);
    /* Pairs with the device's: it asks for kicks, fences, and looks at the flags again. */
    atomic_thread_fence(memory_order_seq_cst);
    event = atomic_load_explicit(&p->device->word, memory_order_relaxed);
    if (event >> 16 == EVENT_DESC)
        return passed(ring, event, p->avail, since);
    return event >> 16 == EVENT_ENABLE;
}

static bool is_used(const struct sim_vring *ring, struct sim_place at)
{
    unsigned flags = atomic_load_explicit(&ring->packed.desc[at.index].flags, memory_order_acquire);

    return (flags & (DESC_F_AVAIL | DESC_F_USED)) == (at.wrap ? DESC_F_AVAIL | DESC_F_USED : 0);
}

void *sim_packed_pop(struct sim_vring *ring, uint32_t *len)
{
    struct sim_packed *p = &ring->packed;
    const struct sim_packed_desc *desc = &p->desc[p->used.index];
    uint32_t id;
    void *token;

    if (!ring->outstanding || !is_used(ring, p->used))
        return NULL;
    id = atomic_load_explicit(&desc->id, memory_order_relaxed);
    *len = atomic_load_explicit(&desc->len, memory_order_relaxed);
    token = sim_vring_complete(ring, id, *len);
    if (token)
        p->used = step(ring, p->used, ring->chains[id].length);
    return token;
}

static void write_event(struct sim_vring *ring, unsigned flags, struct sim_place at)
{
    uint32_t word = (uint32_t)flags << 16 | (uint32_t)at.wrap << 15 | at.index;

    atomic_exchange(&ring->packed.driver->word, word);
    sim_memory_mark(ring->mem, ring->avail_gpa, sizeof(word));
}

bool sim_packed_want_calls(struct sim_vring *ring, unsigned after)
{
    struct sim_packed *p = &ring->packed;

    if (ring->event_idx) {
        unsigned taken = ring->num - ring->free_count;
        unsigned slots = ring->outstanding ? taken * (after - 1) / ring->outstanding : 0;

        /* Which chains complete first nobody knows: the places of as many average ones. */
        p->event = step(ring, p->used, slots);
        write_event(ring, EVENT_DESC, p->event);
    } else if (!ring->calls_wanted) {
        write_event(ring, EVENT_ENABLE, (struct sim_place){.index = 0});
    }
    /* Pairs with the device's: it stores used flags, fences, and looks at the event. */
    atomic_thread_fence(memory_order_seq_cst);
    return ring->outstanding && is_used(ring, p->used);
}

void sim_packed_refuse_calls(struct sim_vring *ring)
{
    write_event(ring, EVENT_DISABLE, (struct sim_place){.index = 0});
}

/* Behind the last used descriptor that has not been popped. */
static struct sim_place device_place(const struct sim_vring *ring)
{
    struct sim_place at = ring->packed.used;

    for (unsigned i = 0; i < ring->outstanding && is_used(ring, at); i++) {
        unsigned id = atomic_load_explicit(&ring->packed.desc[at.index].id, memory_order_relaxed);

        if (id >= ring->num || !ring->chains[id].token)
            break;
        at = step(ring, at, ring->chains[id].length);
    }
    return at;
}

bool sim_packed_call_due(const struct sim_vring *ring)
{
    const struct sim_packed *p = &ring->packed;
    struct sim_place end = device_place(ring);
    uint32_t event = (uint32_t)p->event.wrap << 15 | p->event.index;

    if (!ring->event_idx)
        return distance(ring, p->used, end);
    return passed(ring, event, end, distance(ring, p->used, end));
}

uint16_t sim_packed_device_idx(const struct sim_vring *ring)
{
    return device_place(ring).index;
}

const char *sim_packed_check_base(const struct sim_vring *ring, uint32_t base)
{
    struct sim_place avail = {.index = base & 0x7fff, .wrap = base >> 15 & 1};
    struct sim_place used = {.index = base >> 16 & 0x7fff, .wrap = base >> 31};
    struct sim_place end = device_place(ring);

    if (avail.index >= ring->num || used.index >= ring->num)
        return "which is impossible";
    if (avail.index != used.index || avail.wrap != used.wrap)
        return "with requests that it took and did not complete";
    return used.index == end.index && used.wrap == end.wrap ? NULL
                                                            : "with its used index elsewhere";
}
