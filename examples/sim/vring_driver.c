/* SPDX-License-Identifier: BSD-3-Clause */
#include "vring_driver.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little endian");

#define DESC_F_NEXT          1
#define DESC_F_WRITE         2
#define DESC_F_INDIRECT      4
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

_Static_assert(sizeof(struct sim_vring_desc) == 16, "virtio 1.3, 2.7.5");
_Static_assert(sizeof(struct used_elem) == 8, "virtio 1.3, 2.7.8");

static uint64_t desc_bytes(unsigned num)
{
    return sizeof(struct sim_vring_desc) * num;
}

static uint64_t avail_bytes(unsigned num)
{
    return sizeof(uint16_t) * (3 + (uint64_t)num);
}

static uint64_t used_bytes(unsigned num)
{
    return sizeof(struct used_elem) * num + 3 * sizeof(uint16_t);
}

/* Has an index that went from old to new stepped over event? (virtio 1.3 section 2.7.10) */
static bool passed(uint16_t event, uint16_t new, uint16_t old)
{
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

static int place(struct sim_vring *ring, struct sim_memory *mem, enum sim_vring_layout layout)
{
    uint64_t desc = desc_bytes(ring->num);
    uint64_t avail = avail_bytes(ring->num);
    uint64_t used = used_bytes(ring->num);

    if (layout == SIM_VRING_APART) {
        ring->desc_gpa = sim_memory_alloc(mem, desc, SIM_PAGE);
        ring->avail_gpa = sim_memory_alloc(mem, avail, SIM_PAGE);
        ring->used_gpa = sim_memory_alloc(mem, used, SIM_PAGE);
    } else {
        uint64_t used_offset = (desc + avail + 63) / 64 * 64;

        ring->desc_gpa = sim_memory_alloc(mem, used_offset + used, SIM_PAGE);
        ring->avail_gpa = ring->desc_gpa + desc;
        ring->used_gpa = ring->desc_gpa + used_offset;
    }
    if (ring->desc_gpa == SIM_NO_GPA || ring->avail_gpa == SIM_NO_GPA ||
        ring->used_gpa == SIM_NO_GPA)
        return -ENOMEM;
    sim_vring_attach(ring, mem);
    return 0;
}

int sim_vring_new(struct sim_memory *mem, unsigned num, enum sim_vring_layout layout,
                  bool event_idx, struct sim_vring **out)
{
    struct sim_vring *ring;
    int ret = -ENOMEM;

    if (!num || num > 32768 || (num & (num - 1)))
        return -EINVAL;
    ring = calloc(1, sizeof(*ring));
    if (!ring)
        return -ENOMEM;
    ring->num = num;
    ring->event_idx = event_idx;
    ring->free_count = num;
    ring->calls_wanted = true;
    ring->chains = calloc(num, sizeof(*ring->chains));
    ring->next = calloc(num, sizeof(*ring->next));
    if (!ring->chains || !ring->next)
        goto fail;
    for (unsigned i = 0; i < num; i++)
        ring->next[i] = (uint16_t)(i + 1);
    ret = place(ring, mem, layout);
    if (ret)
        goto fail;
    *out = ring;
    return 0;

fail:
    sim_vring_free(ring);
    return ret;
}

void sim_vring_free(struct sim_vring *ring)
{
    if (!ring)
        return;
    free(ring->chains);
    free(ring->next);
    free(ring);
}

void sim_vring_attach(struct sim_vring *ring, struct sim_memory *mem)
{
    ring->mem = mem;
    ring->desc = sim_memory_ptr(mem, ring->desc_gpa, desc_bytes(ring->num));
    ring->avail = sim_memory_ptr(mem, ring->avail_gpa, avail_bytes(ring->num));
    ring->used = sim_memory_ptr(mem, ring->used_gpa, used_bytes(ring->num));
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

int sim_vring_add(struct sim_vring *ring, const struct sim_segment *segments, unsigned out,
                  unsigned in, uint64_t table, void *token)
{
    unsigned count = out + in;
    unsigned needed = table == SIM_NO_GPA ? count : 1;
    uint16_t head = ring->free_head;
    unsigned slot = ring->avail_idx & (ring->num - 1);
    struct sim_chain *chain;

    if (!count || count > SIM_VRING_MAX_SEGMENTS || !token)
        return -EINVAL;
    if (table != SIM_NO_GPA && !sim_memory_ptr(ring->mem, table, desc_bytes(count)))
        return -EINVAL;
    if (needed > ring->free_count)
        return -ENOSPC;

    chain = &ring->chains[head];
    chain->token = token;
    chain->length = (uint16_t)needed;
    chain->room = 0;
    for (unsigned i = out; i < count; i++)
        chain->room += segments[i].len;
    if (table == SIM_NO_GPA)
        chain->last = write_direct(ring, segments, out, count);
    else
        chain->last = write_indirect(ring, segments, out, count, table);
    ring->free_count -= needed;
    ring->outstanding++;

    atomic_store_explicit(&ring->avail->ring[slot], head, memory_order_relaxed);
    sim_memory_mark(ring->mem, ring->avail_gpa + 4 + 2 * slot, 2);
    ring->avail_idx++;
    return 0;
}

bool sim_vring_publish(struct sim_vring *ring)
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

static void *complete(struct sim_vring *ring, uint32_t id, uint32_t len)
{
    struct sim_chain *chain;
    void *token;

    if (id >= ring->num) {
        ring->error = "the device completed a head beyond the ring";
        return NULL;
    }
    chain = &ring->chains[id];
    token = chain->token;
    if (!token) {
        ring->error = "the device completed a head that is not outstanding (twice?)";
        return NULL;
    }
    if (len > chain->room) {
        ring->error = "the device says that it wrote more than there was room for";
        return NULL;
    }
    chain->token = NULL;
    ring->next[chain->last] = ring->free_head;
    ring->free_head = (uint16_t)id;
    ring->free_count += chain->length;
    ring->outstanding--;
    return token;
}

void *sim_vring_pop(struct sim_vring *ring, uint32_t *len)
{
    uint16_t idx = atomic_load_explicit(&ring->used->idx, memory_order_acquire);
    const struct used_elem *elem = &ring->used->ring[ring->used_idx & (ring->num - 1)];
    uint32_t id;

    if (ring->error || idx == ring->used_idx)
        return NULL;
    if ((uint16_t)(idx - ring->used_idx) > ring->outstanding) {
        ring->error = "the used index jumped beyond what is outstanding";
        return NULL;
    }
    id = atomic_load_explicit(&elem->id, memory_order_relaxed);
    *len = atomic_load_explicit(&elem->len, memory_order_relaxed);
    ring->used_idx++;
    return complete(ring, id, *len);
}

bool sim_vring_want_calls(struct sim_vring *ring, unsigned after)
{
    uint16_t idx;

    if (!after || !ring->event_idx)
        after = 1;
    if (ring->event_idx) {
        ring->used_event = (uint16_t)(ring->used_idx + after - 1);
        atomic_exchange(&ring->avail->ring[ring->num], ring->used_event);
        sim_memory_mark(ring->mem, ring->avail_gpa + 4 + 2 * (uint64_t)ring->num, 2);
    } else if (!ring->calls_wanted) {
        atomic_exchange(&ring->avail->flags, 0);
        sim_memory_mark(ring->mem, ring->avail_gpa, 2);
    }
    ring->calls_wanted = true;
    idx = atomic_load(&ring->used->idx);
    if ((uint16_t)(idx - ring->used_idx) < after)
        return false;
    sim_vring_refuse_calls(ring);
    return true;
}

void sim_vring_refuse_calls(struct sim_vring *ring)
{
    if (!ring->calls_wanted)
        return;
    ring->calls_wanted = false;
    /* With event_idx an old used_event does the same: the device has stepped over it already. */
    if (ring->event_idx)
        return;
    atomic_store_explicit(&ring->avail->flags, AVAIL_F_NO_INTERRUPT, memory_order_relaxed);
    sim_memory_mark(ring->mem, ring->avail_gpa, 2);
}

bool sim_vring_call_due(const struct sim_vring *ring)
{
    uint16_t idx = sim_vring_device_idx(ring);

    if (!ring->calls_wanted)
        return false;
    return ring->event_idx ? passed(ring->used_event, idx, ring->used_idx) : idx != ring->used_idx;
}

uint16_t sim_vring_device_idx(const struct sim_vring *ring)
{
    return atomic_load_explicit(&ring->used->idx, memory_order_acquire);
}
