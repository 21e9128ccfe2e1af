/* SPDX-License-Identifier: BSD-3-Clause */
#include "queue.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/eventfd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little endian");

#define DESC_F_NEXT          1
#define DESC_F_WRITE         2
#define DESC_F_INDIRECT      4
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
    return (_Atomic uint16_t *)&queue->avail->ring[queue->num];
}

static _Atomic uint16_t *avail_event(const struct rd_queue *queue)
{
    return (_Atomic uint16_t *)&queue->used->ring[queue->num];
}

int rd_queue_attach(struct rd_queue *queue, const struct rd_memory *mem)
{
    const struct svq_vu_vring_addr *addr = &queue->addr;
    uint64_t num = queue->num;

    if (!num || addr->desc % 16 || addr->avail % 2 || addr->used % 4)
        return -EINVAL;
    queue->mem = mem;
    queue->desc = rd_memory_uaddr(mem, addr->desc, num * sizeof(struct rd_desc));
    queue->avail = rd_memory_uaddr(mem, addr->avail, 6 + num * 2);
    queue->used = rd_memory_uaddr(mem, addr->used, 6 + num * sizeof(struct used_elem));
    return queue->desc && queue->avail && queue->used ? 0 : -EINVAL;
}

int rd_queue_start(struct rd_queue *queue, const struct rd_memory *mem, uint64_t features)
{
    int ret = rd_queue_attach(queue, mem);

    if (ret)
        return ret;
    queue->event_idx = features & SVQ_BIT(SVQ_F_EVENT_IDX);
    queue->indirect = features & SVQ_BIT(SVQ_F_INDIRECT_DESC);
    queue->used_idx = atomic_load_explicit(&queue->used->idx, memory_order_relaxed);
    queue->called_idx = queue->used_idx;
    queue->broken = NULL;
    queue->started = true;
    return 0;
}

bool rd_queue_ready(const struct rd_queue *queue)
{
    return queue->started && queue->enabled && !queue->broken;
}

static bool fault(struct rd_queue *queue, const char *why)
{
    queue->broken = why;
    fprintf(stderr, "svq-ramdisk: queue %u is broken: %s\n", queue->index, why);
    if (queue->err >= 0)
        eventfd_write(queue->err, 1);
    return false;
}

/* One buffer; it may lie in several regions. */
static bool add_buffer(struct rd_queue *queue, struct rd_chain *chain, const struct rd_desc *desc)
{
    uint64_t gpa = desc->addr;
    uint64_t left = desc->len;

    if (!(desc->flags & DESC_F_WRITE) && chain->in)
        return fault(queue, "a readable buffer after a writable one");
    while (left) {
        uint64_t len = left;
        void *ptr = rd_memory_gpa(queue->mem, gpa, &len);

        if (!ptr)
            return fault(queue, "a buffer outside memory");
        if (chain->out + chain->in == RD_MAX_SEGMENTS)
            return fault(queue, "a chain of too many buffers");
        chain->iov[chain->out + chain->in] = (struct iovec){.iov_base = ptr, .iov_len = len};
        if (desc->flags & DESC_F_WRITE)
            chain->in++;
        else
            chain->out++;
        gpa += len;
        left -= len;
    }
    return true;
}

/* Follow a chain through a table, from `index` on; an indirect one ends it. */
static bool walk(struct rd_queue *queue, struct rd_chain *chain, const struct rd_desc *table,
                 unsigned size, unsigned index, bool is_indirect)
{
    for (unsigned steps = 0; steps < size; steps++) {
        struct rd_desc desc;

        if (index >= size)
            return fault(queue, "a descriptor outside the table");
        desc = *(const volatile struct rd_desc *)&table[index];
        if (desc.flags & DESC_F_INDIRECT) {
            uint64_t len = desc.len;
            const struct rd_desc *inner = rd_memory_gpa(queue->mem, desc.addr, &len);

            if (is_indirect || !queue->indirect || (desc.flags & DESC_F_NEXT))
                return fault(queue, "an indirect table where none may be");
            if (!inner || len != desc.len || !len || len % sizeof(desc))
                return fault(queue, "an indirect table of a wrong size or outside memory");
            return walk(queue, chain, inner, (unsigned)(len / sizeof(desc)), 0, true);
        }
        if (!add_buffer(queue, chain, &desc))
            return false;
        if (!(desc.flags & DESC_F_NEXT))
            return true;
        index = desc.next;
    }
    return fault(queue, "a chain without end");
}

bool rd_queue_pop(struct rd_queue *queue, struct rd_chain *chain)
{
    uint16_t idx = atomic_load_explicit(&queue->avail->idx, memory_order_acquire);
    unsigned slot = queue->avail_idx & (queue->num - 1);

    if (queue->broken || idx == queue->avail_idx)
        return false;
    if ((uint16_t)(idx - queue->avail_idx) > queue->num)
        return fault(queue, "more chains available than the ring has room for");
    chain->head = *(const volatile uint16_t *)&queue->avail->ring[slot];
    chain->out = chain->in = 0;
    if (!walk(queue, chain, queue->desc, queue->num, chain->head, false))
        return false;
    queue->avail_idx++;
    return true;
}

void rd_queue_push(struct rd_queue *queue, const struct rd_chain *chain, uint32_t len)
{
    struct used_elem *elem = &queue->used->ring[queue->used_idx & (queue->num - 1)];

    *elem = (struct used_elem){.id = chain->head, .len = len};
    queue->used_idx++;
}

static bool guest_wants_call(const struct rd_queue *queue)
{
    uint16_t event;

    if (!queue->event_idx)
        return !(atomic_load(&queue->avail->flags) & AVAIL_F_NO_INTERRUPT);
    /* Have we stepped over the index that the guest waits for? */
    event = atomic_load(used_event(queue));
    return (uint16_t)(queue->used_idx - event - 1) <
           (uint16_t)(queue->used_idx - queue->called_idx);
}

void rd_queue_flush(struct rd_queue *queue)
{
    if (queue->used_idx == queue->called_idx)
        return;
    /*
     * An exchange and not a store: it must be seen before we look at what the guest asked for, or
     * guest and device could each miss the other.
     */
    atomic_exchange(&queue->used->idx, queue->used_idx);
    if (queue->call >= 0 && guest_wants_call(queue))
        eventfd_write(queue->call, 1);
    queue->called_idx = queue->used_idx;
}

bool rd_queue_arm(struct rd_queue *queue)
{
    if (queue->event_idx)
        atomic_exchange(avail_event(queue), queue->avail_idx);
    else
        atomic_exchange(&queue->used->flags, 0);
    return atomic_load(&queue->avail->idx) != queue->avail_idx;
}

void rd_queue_disarm(struct rd_queue *queue)
{
    /* With event_idx there is nothing to do: the guest has stepped over avail_event. */
    if (!queue->event_idx)
        atomic_store_explicit(&queue->used->flags, USED_F_NO_NOTIFY, memory_order_relaxed);
}
