/* SPDX-License-Identifier: BSD-3-Clause */
#include "queue.h"

#include <errno.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "ring.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little endian");

bool rd_queue_fault(struct rd_queue *queue, const char *why)
{
    queue->broken = why;
    fprintf(stderr, "svq-ramdisk: queue %u is broken: %s\n", queue->index, why);
    if (queue->err >= 0)
        eventfd_write(queue->err, 1);
    return false;
}

bool rd_chain_add(struct rd_queue *queue, struct rd_chain *chain, uint64_t addr, uint32_t len,
                  bool writable)
{
    uint64_t left = len;

    if (!writable && chain->in)
        return rd_queue_fault(queue, "a readable buffer after a writable one");
    /* It may lie in several regions. */
    while (left) {
        uint64_t piece = left;
        void *ptr = rd_memory_gpa(queue->mem, addr, &piece);

        if (!ptr)
            return rd_queue_fault(queue, "a buffer outside memory");
        if (chain->out + chain->in == RD_MAX_SEGMENTS)
            return rd_queue_fault(queue, "a chain of too many buffers");
        chain->iov[chain->out + chain->in] = (struct iovec){.iov_base = ptr, .iov_len = piece};
        if (writable)
            chain->in++;
        else
            chain->out++;
        addr += piece;
        left -= piece;
    }
    return true;
}

const void *rd_chain_table(struct rd_queue *queue, uint64_t addr, uint32_t len, unsigned *count)
{
    uint64_t room = len;
    const void *table = rd_memory_gpa(queue->mem, addr, &room);

    *count = len / 16;
    if (queue->indirect && table && room == len && len && len % 16 == 0)
        return table;
    rd_queue_fault(queue, queue->indirect ? "an indirect table of a wrong size or outside memory"
                                          : "an indirect table, which was not negotiated");
    return NULL;
}

int rd_queue_attach(struct rd_queue *queue, const struct rd_memory *mem)
{
    queue->mem = mem;
    return queue->packed ? rd_packed_attach(queue, mem) : rd_split_attach(queue, mem);
}

int rd_queue_start(struct rd_queue *queue, const struct rd_memory *mem, uint64_t features)
{
    int ret;

    queue->packed = features & SVQ_BIT(SVQ_F_RING_PACKED);
    queue->event_idx = features & SVQ_BIT(SVQ_F_EVENT_IDX);
    queue->indirect = features & SVQ_BIT(SVQ_F_INDIRECT_DESC);
    ret = rd_queue_attach(queue, mem);
    if (!ret)
        ret = queue->packed ? rd_packed_start(queue) : rd_split_start(queue);
    if (ret)
        return ret;
    queue->broken = NULL;
    queue->started = true;
    if (queue->track.again_count)
        fprintf(stderr, "svq-ramdisk: queue %u: %u requests to do again\n", queue->index,
                queue->track.again_count);
    /* A predecessor may have been killed after its last completion and before the call. */
    if (queue->track.part && queue->call >= 0)
        eventfd_write(queue->call, 1);
    return 0;
}

uint32_t rd_queue_base(const struct rd_queue *queue)
{
    const struct rd_packed *p = &queue->p;

    if (!queue->started)
        return queue->base;
    if (!queue->packed)
        return queue->s.avail_idx;
    return p->avail.index | (uint32_t)p->avail.wrap << 15 | (uint32_t)p->used.index << 16 |
           (uint32_t)p->used.wrap << 31;
}

bool rd_queue_ready(const struct rd_queue *queue)
{
    return queue->started && queue->enabled && !queue->broken;
}

bool rd_queue_pop(struct rd_queue *queue, struct rd_chain *chain)
{
    if (queue->broken)
        return false;
    chain->out = chain->in = 0;
    return queue->packed ? rd_packed_pop(queue, chain) : rd_split_pop(queue, chain);
}

void rd_queue_push(struct rd_queue *queue, const struct rd_chain *chain, uint32_t len)
{
    if (queue->packed)
        rd_packed_push(queue, chain, len);
    else
        rd_split_push(queue, chain, len);
}

void rd_queue_flush(struct rd_queue *queue)
{
    bool call = queue->packed ? rd_packed_publish(queue) : rd_split_publish(queue);

    if (call && queue->call >= 0)
        eventfd_write(queue->call, 1);
}

bool rd_queue_arm(struct rd_queue *queue)
{
    return queue->packed ? rd_packed_arm(queue) : rd_split_arm(queue);
}

void rd_queue_disarm(struct rd_queue *queue)
{
    if (queue->packed)
        rd_packed_disarm(queue);
    else
        rd_split_disarm(queue);
}
