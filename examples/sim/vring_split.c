/* SPDX-License-Identifier: BSD-3-Clause */
/* A driver's split ring (virtio 1.3 section 2.7). */
#include <stdatomic.h>

#include "vring_internal.h"

#define AVAIL_F_NO_INTERRUPT 1
#define USED_F_NO_NOTIFY     1

/* Every field is shared, with the device and with whoever migrates the memory. */
struct sim_vring_desc {
    _Atomic uint64_t addr;
    _Atomic uint32_t len;
    _Atomic uint16_t flags;
    _Atomic uint16_t next;
};

struct sim_vring_avail {
    _Atomic uint16_t flags;
    _Atomic uint16_t idx;
    _Atomic uint16_t ring[]; /* num heads, then used_event */
};

struct used_elem {
    _Atomic uint32_t id;
    _Atomic uint32_t len;
};

struct sim_vring_used {
    _Atomic uint16_t flags;
    _Atomic uint16_t idx;
    struct used_elem ring[]; /* num of them, then avail_event */
};

_Static_assert(sizeof(struct sim_vring_desc) == DESC_BYTES, "virtio 1.3, 2.7.5");
_Static_assert(sizeof(struct used_elem) == 8, "virtio 1.3, 2.7.8");

static uint64_t desc_bytes(unsigned num)
{
    return sizeof(struct sim_vring_desc) * num;
}

struct sim_vring_sizes sim_split_sizes(unsigned num)
{
    return (struct sim_vring_sizes){
        .desc = desc_bytes(num),
        .avail = sizeof(uint16_t) * (3 + (uint64_t)num),
        .used = sizeof(struct used_elem) * num + 3 * sizeof(uint16_t),
    };
}

void sim_split_attach(struct sim_vring *ring)
{
    struct sim_vring_sizes size = sim_split_sizes(ring->num);

    ring->desc = sim_memory_ptr(ring->mem, ring->desc_gpa, size.desc);
    ring->avail = sim_memory_ptr(ring->mem, ring->avail_gpa, size.avail);
    ring->used = sim_memory_ptr(ring->mem, ring->used_gpa, size.used);
}

/* Has an index that went from old to new stepped over event? (virtio 1.3 section 2.7.10) */
static bool passed(uint16_t event, uint16_t new, uint16_t old)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

static void write_desc(struct sim_memory *mem, struct sim_vring_desc *desc, uint64_t desc_gpa,
                       const struct sim_segment *segment, unsigned flags, unsigned next)
{
    atomic_store_explicit(&desc->addr, segment->gpa, memory_order_relaxed);
    atomic_store_explicit(&desc->len, segment->len, memory_order_relaxed);
    atomic_store_explicit(&desc->flags, (uint16_t)flags, memory_order_relaxed);
    atomic_store_explicit(&desc->next, (uint16_t)next, memory_order_relaxed);
    sim_memory_mark(mem, desc_gpa, sizeof(*desc));
}

/* The chain's segments into the ring's own descriptors. */
static uint16_t write_direct(struct sim_vring *ring, const struct sim_segment *segments,
                             unsigned out, unsigned count)
{
    uint16_t index = ring->free_head;
    uint16_t last = index;

    for (unsigned i = 0; i < count; i++) {
        unsigned flags = (i >= out ? DESC_F_WRITE : 0) | (i + 1 < count ? DESC_F_NEXT : 0);

        write_desc(ring->mem, &ring->desc[index], ring->desc_gpa + desc_bytes(index), &segments[i],
                   flags, ring->next[index]);
        last = index;
        index = ring->next[index];
    }
    ring->free_head = index;
    return last;
}

/* The chain's segments into a table of their own, and that into one descriptor. */
static uint16_t write_indirect(struct sim_vring *ring, const struct sim_segment *segments,
                               unsigned out, unsigned count, uint64_t table)
{
    const struct sim_segment whole = {.gpa = table, .len = (uint32_t)desc_bytes(count)};
    struct sim_vring_desc *desc = sim_memory_ptr(ring->mem, table, whole.len);
    uint16_t head = ring->free_head;

    for (unsigned i = 0; i < count; i++) {
        unsigned flags = (i >= out ? DESC_F_WRITE : 0) | (i + 1 < count ? DESC_F_NEXT : 0);

        write_desc(ring->mem, &desc[i], table + desc_bytes(i), &segments[i], flags, i + 1);
    }
    write_desc(ring->mem, &ring->desc[head], ring->desc_gpa + desc_bytes(head), &whole,
               DESC_F_INDIRECT, 0);
    ring->free_head = ring->next[head];
    return head;
}

void sim_split_add(struct sim_vring *ring, struct sim_chain *chain,
                   const struct sim_segment *segments, unsigned out, unsigned count, uint64_t table)
{
    unsigned slot = ring->avail_idx & (ring->num - 1);
    uint16_t head = ring->free_head;

    if (table == SIM_NO_GPA)
        chain->last = write_direct(ring, segments, out, count);
    else
        chain->last = write_indirect(ring, segments, out, count, table);
    atomic_store_explicit(&ring->avail->ring[slot], head, memory_order_relaxed);
    sim_memory_mark(ring->mem, ring->avail_gpa + 4 + 2 * slot, 2);
    ring->avail_idx++;
}

bool sim_split_publish(struct sim_vring *ring)
{
    const struct sim_vring_used *used = ring->used;
    uint16_t old = ring->published_idx;

    if (old == ring->avail_idx)
        return false;
    ring->published_idx = ring->avail_idx;
    /*
     * Sequentially consistent, so that the device either sees this index when it looks again after
     * asking for kicks, or we see that it asks. An exchange, as a store alone is free to wait for
     * longer than the load below.
     */
    atomic_exchange(&ring->avail->idx, ring->avail_idx);
    sim_memory_mark(ring->mem, ring->avail_gpa + 2, 2);
    if (ring->event_idx) {
        /* avail_event lies behind the last element (virtio 1.3 section 2.7.8). */
        const _Atomic uint16_t *event = (const _Atomic uint16_t *)&used->ring[ring->num];

        return passed(atomic_load(event), ring->avail_idx, old);
    }
    return !(atomic_load(&used->flags) & USED_F_NO_NOTIFY);
}

void *sim_split_pop(struct sim_vring *ring, uint32_t *len)
{
    uint16_t idx = atomic_load_explicit(&ring->used->idx, memory_order_acquire);
    const struct used_elem *elem = &ring->used->ring[ring->used_idx & (ring->num - 1)];
    uint32_t id;

    if (idx == ring->used_idx)
        return NULL;
    if ((uint16_t)(idx - ring->used_idx) > ring->outstanding) {
        ring->error = "the used index jumped beyond what is outstanding";
        return NULL;
    }
    id = atomic_load_explicit(&elem->id, memory_order_relaxed);
    *len = atomic_load_explicit(&elem->len, memory_order_relaxed);
    ring->used_idx++;
    return sim_vring_complete(ring, id, *len);
}

bool sim_split_want_calls(struct sim_vring *ring, unsigned after)
{
    if (ring->event_idx) {
        ring->used_event = (uint16_t)(ring->used_idx + after - 1);
        atomic_exchange(&ring->avail->ring[ring->num], ring->used_event);
        sim_memory_mark(ring->mem, ring->avail_gpa + 4 + 2 * (uint64_t)ring->num, 2);
    } else if (!ring->calls_wanted) {
        atomic_exchange(&ring->avail->flags, 0);
        sim_memory_mark(ring->mem, ring->avail_gpa, 2);
    }
    return (uint16_t)(atomic_load(&ring->used->idx) - ring->used_idx) >= after;
}

void sim_split_refuse_calls(struct sim_vring *ring)
{
    atomic_store_explicit(&ring->avail->flags, AVAIL_F_NO_INTERRUPT, memory_order_relaxed);
    sim_memory_mark(ring->mem, ring->avail_gpa, 2);
}

bool sim_split_call_due(const struct sim_vring *ring)
{
    uint16_t idx = sim_split_device_idx(ring);

    return ring->event_idx ? passed(ring->used_event, idx, ring->used_idx) : idx != ring->used_idx;
}

uint16_t sim_split_device_idx(const struct sim_vring *ring)
{
    return atomic_load_explicit(&ring->used->idx, memory_order_acquire);
}

const char *sim_split_check_base(const struct sim_vring *ring, uint32_t base)
{
    if (base > UINT16_MAX || (uint16_t)(ring->published_idx - base) > ring->outstanding)
        return "which is impossible";
    return sim_split_device_idx(ring) == base ? NULL : "with its used index elsewhere";
}
