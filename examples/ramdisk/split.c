/* SPDX-License-Identifier: BSD-3-Clause */
/* Split rings (virtio 1.3 section 2.7). */
#include <errno.h>
#include <stdatomic.h>

#include "ring.h"

#define AVAIL_F_NO_INTERRUPT 1
#define USED_F_NO_NOTIFY     1

struct rd_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct rd_avail {
    _Atomic uint16_t flags;
    _Atomic uint16_t idx;
    uint16_t ring[]; /* num heads, then used_event */
};

struct used_elem {
    uint32_t id;
    uint32_t len;
};

struct rd_used {
    _Atomic uint16_t flags;
    _Atomic uint16_t idx;
    struct used_elem ring[]; /* num of them, then avail_event */
};

static _Atomic uint16_t *used_event(const struct rd_queue *queue)
{
    return (_Atomic uint16_t *)&queue->s.avail->ring[queue->num];
}

static _Atomic uint16_t *avail_event(const struct rd_queue *queue)
{
    return (_Atomic uint16_t *)&queue->s.used->ring[queue->num];
}

int rd_split_attach(struct rd_queue *queue, const struct rd_memory *mem)
{
    const struct svq_vu_vring_addr *addr = &queue->addr;
    struct rd_split *s = &queue->s;
    uint64_t num = queue->num;

    if (!num || (num & (num - 1)) || addr->desc % 16 || addr->avail % 2 || addr->used % 4)
        return -EINVAL;
    s->desc = rd_memory_uaddr(mem, addr->desc, num * sizeof(struct rd_desc));
    s->avail = rd_memory_uaddr(mem, addr->avail, 6 + num * 2);
    s->used = rd_memory_uaddr(mem, addr->used, 6 + num * sizeof(struct used_elem));
    return s->desc && s->avail && s->used ? 0 : -EINVAL;
}

int rd_split_start(struct rd_queue *queue)
{
    struct rd_split *s = &queue->s;
    int ret;

    s->avail_idx = (uint16_t)queue->base;
    s->used_idx = atomic_load_explicit(&s->used->idx, memory_order_relaxed);
    s->called_idx = s->used_idx;
    if (!queue->track.part)
        return 0;
    ret = rd_track_resume_split(&queue->track, s->used_idx);
    if (ret)
        return ret;
    /* What the front-end says cannot be right: only the region knows what is in flight. */
    if (!queue->track.fresh)
        s->avail_idx = (uint16_t)(s->used_idx + queue->track.again_count);
    return 0;
}

/* Follow a chain through a table, from `index` on; an indirect one ends it. */
static bool walk(struct rd_queue *queue, struct rd_chain *chain, const struct rd_desc *table,
                 unsigned size, unsigned index, bool is_indirect)
{
    for (unsigned steps = 0; steps < size; steps++) {
        struct rd_desc desc;

        if (index >= size)
            return rd_queue_fault(queue, "a descriptor outside the table");
        desc = *(const volatile struct rd_desc *)&table[index];
        if (desc.flags & DESC_F_INDIRECT) {
            unsigned count;
            const void *inner;

            if (is_indirect || (desc.flags & DESC_F_NEXT))
                return rd_queue_fault(queue, "an indirect table where none may be");
            inner = rd_chain_table(queue, desc.addr, desc.len, &count);
            return inner && walk(queue, chain, inner, count, 0, true);
        }
        if (!rd_chain_add(queue, chain, desc.addr, desc.len, desc.flags & DESC_F_WRITE))
            return false;
        if (!(desc.flags & DESC_F_NEXT))
            return true;
        index = desc.next;
    }
    return rd_queue_fault(queue, "a chain without end");
}

bool rd_split_pop(struct rd_queue *queue, struct rd_chain *chain)
{
    struct rd_split *s = &queue->s;
    uint16_t idx = atomic_load_explicit(&s->avail->idx, memory_order_acquire);
    unsigned slot = s->avail_idx & (queue->num - 1);

    if (rd_track_next(&queue->track, &chain->id)) {
        if (chain->id >= queue->num)
            return rd_queue_fault(queue, "a request beyond the ring in the in-flight region");
        return walk(queue, chain, s->desc, queue->num, chain->id, false);
    }
    if (idx == s->avail_idx)
        return false;
    if ((uint16_t)(idx - s->avail_idx) > queue->num)
        return rd_queue_fault(queue, "more chains available than the ring has room for");
    chain->id = *(const volatile uint16_t *)&s->avail->ring[slot];
    if (!walk(queue, chain, s->desc, queue->num, chain->id, false))
        return false;
    rd_track_take_split(&queue->track, chain->id);
    s->avail_idx++;
    return true;
}

void rd_split_push(struct rd_queue *queue, const struct rd_chain *chain, uint32_t len)
{
    struct rd_split *s = &queue->s;
    struct used_elem *elem = &s->used->ring[s->used_idx & (queue->num - 1)];

    *elem = (struct used_elem){.id = chain->id, .len = len};
    rd_track_give_split(&queue->track, chain->id);
    s->used_idx++;
}

static bool guest_wants_call(const struct rd_queue *queue)
{
    const struct rd_split *s = &queue->s;
    uint16_t event;

    if (!queue->event_idx)
        return !(atomic_load(&s->avail->flags) & AVAIL_F_NO_INTERRUPT);
    /* Have we stepped over the index that the guest waits for? */
    event = atomic_load(used_event(queue));
    return (uint16_t)(s->used_idx - event - 1) < (uint16_t)(s->used_idx - s->called_idx);
}

bool rd_split_publish(struct rd_queue *queue)
{
    struct rd_split *s = &queue->s;
    bool call;

    if (s->used_idx == s->called_idx)
        return false;
    /*
     * An exchange and not a store: it must be seen before we look at what the guest asked for, or
     * guest and device could each miss the other.
     */
    atomic_exchange(&s->used->idx, s->used_idx);
    rd_track_commit_split(&queue->track, s->used_idx);
    call = guest_wants_call(queue);
    s->called_idx = s->used_idx;
    return call;
}

bool rd_split_arm(struct rd_queue *queue)
{
    struct rd_split *s = &queue->s;

    if (queue->event_idx)
        atomic_exchange(avail_event(queue), s->avail_idx);
    else
        atomic_exchange(&s->used->flags, 0);
    return atomic_load(&s->avail->idx) != s->avail_idx;
}

void rd_split_disarm(struct rd_queue *queue)
{
    /* With event_idx there is nothing to do: the guest has stepped over avail_event. */
    if (!queue->event_idx)
        atomic_store_explicit(&queue->s.used->flags, USED_F_NO_NOTIFY, memory_order_relaxed);
}
