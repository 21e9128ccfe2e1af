/* SPDX-License-Identifier: BSD-3-Clause */
#include "device_end.h"
#include "device_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/wire.h"

/* ---- Turns: the loop's thread ---------------------------------------------------------------- */

static unsigned take_turn(void *opaque)
{
    struct device_end *end = opaque;
    unsigned moved = 0;

    for (unsigned i = 0; i < end->queue_count; i++)
        moved += flow_device_turn(&end->queues[i].flow);
    return moved;
}

static bool arm(void *opaque)
{
    struct device_end *end = opaque;
    bool work = false;

    for (unsigned i = 0; i < end->queue_count; i++)
        if (end->queues[i].flow.running)
            work |= vq_want_kicks(&end->queues[i].flow.vq);
    return work;
}

static unsigned list_fds(void *opaque, struct pollfd *fds, unsigned room)
{
    struct device_end *end = opaque;
    unsigned count = 0;

    for (unsigned i = 0; i < end->queue_count && count < room; i++)
        if (end->queues[i].flow.running)
            fds[count++] = (struct pollfd){.fd = end->queues[i].kick, .events = POLLIN};
    return count;
}

static void awake(void *opaque)
{
    struct device_end *end = opaque;

    for (unsigned i = 0; i < end->queue_count; i++) {
        struct device_queue *queue = &end->queues[i];
        eventfd_t value;

        if (!queue->flow.running)
            continue;
        if (vq_has_avail(&queue->flow.vq, queue->flow.vq.packed))
            eventfd_read(queue->kick, &value);
        vq_refuse_kicks(&queue->flow.vq);
    }
}

/* ---- Queues ---------------------------------------------------------------------------------- */

/* In the loop's thread if there is one. */
static void call(struct device_end *end, void (*fn)(void *arg), void *arg)
{
    if (end->loop)
        bench_loop_call(end->loop, fn, arg);
    else
        fn(arg);
}

struct change {
    struct device_end *end;
    struct device_queue *queue;
    struct vq vq;
};

static void start_flow(void *arg)
{
    struct change *change = arg;
    struct device_queue *queue = change->queue;
    struct flow_device *flow = &queue->flow;

    flow->vq = change->vq;
    flow->call = queue->call;
    flow->region_count = change->end->memory.count;
    for (unsigned i = 0; i < flow->region_count; i++) {
        const struct rd_mapping *m = &change->end->memory.mappings[i];

        flow->regions[i] = (struct flow_memory){m->region.guest_addr, m->region.size,
                                                (uint8_t *)m->base + m->region.mmap_offset};
    }
    /* Without a loop nobody looks, so let nobody think that he was heard: ask for kicks. */
    if (change->end->loop)
        vq_refuse_kicks(&flow->vq);
    else
        vq_want_kicks(&flow->vq);
    flow->running = true;
}

static void stop_flow(void *arg)
{
    struct change *change = arg;

    change->queue->flow.running = false;
}

static void set_call(void *arg)
{
    struct change *change = arg;

    change->queue->flow.call = change->queue->call;
}

void device_queue_stop(struct device_end *end, struct device_queue *queue)
{
    struct change change = {.end = end, .queue = queue};

    if (queue->flow.running)
        call(end, stop_flow, &change);
}

int device_queue_start(struct device_end *end, struct device_queue *queue)
{
    struct change change = {.end = end, .queue = queue};
    bool packed = end->features & SVQ_BIT(SVQ_F_RING_PACKED);
    bool event_idx = end->features & SVQ_BIT(SVQ_F_EVENT_IDX);
    uint64_t num = queue->num;
    struct vq *q = &change.vq;

    if (!num || (num & (num - 1)) || end->memory.count > FLOW_REGIONS)
        return -EINVAL;
    vq_init(q, packed, event_idx, queue->num, 1);
    q->desc = rd_memory_uaddr(&end->memory, queue->addr.desc, 16 * num);
    q->driver = rd_memory_uaddr(&end->memory, queue->addr.avail,
                                packed ? 4 : 4 + 2 * num + (event_idx ? 2 : 0));
    q->device = rd_memory_uaddr(&end->memory, queue->addr.used,
                                packed ? 4 : 4 + 8 * num + (event_idx ? 2 : 0));
    if (!q->desc || !q->driver || !q->device)
        return -EFAULT;
    vq_device_resume(q, queue->base);
    if (packed && (q->avail >= num || q->used >= num))
        return -EINVAL;
    call(end, start_flow, &change);
    return 0;
}

void device_queue_set_call(struct device_end *end, struct device_queue *queue, int fd)
{
    struct change change = {.end = end, .queue = queue};
    int old = queue->call;

    queue->call = fd;
    if (queue->flow.running)
        call(end, set_call, &change);
    if (old >= 0)
        close(old);
}

void device_queue_forget(struct device_end *end, struct device_queue *queue)
{
    device_queue_stop(end, queue);
    device_queue_set_call(end, queue, -1);
    if (queue->kick >= 0)
        close(queue->kick);
    queue->kick = -1;
    queue->started = queue->enabled = false;
    queue->num = queue->base = 0;
    /* The next front-end begins another flow. */
    queue->flow.sent = queue->flow.seen = 0;
}

/* ---- Devices --------------------------------------------------------------------------------- */

int device_end_new(struct device_host *host, const char *path,
                   const struct device_end_config *config, struct bench_loop *loop,
                   struct device_end **out)
{
    unsigned queues = config->queues;
    struct device_end *end = calloc(1, sizeof(*end) + queues * sizeof(end->queues[0]));
    int ret = 0;

    if (!end)
        return -ENOMEM;
    end->queue_count = queues;
    end->loop = loop;
    end->sock = -1;
    end->on_listener = (struct device_watch){end, true};
    end->on_sock = (struct device_watch){end, false};
    end->party = (struct bench_party){take_turn, arm, list_fds, awake, end};
    for (unsigned i = 0; i < queues; i++) {
        struct device_queue *queue = &end->queues[i];

        queue->kick = queue->call = queue->flow.call = -1;
        queue->flow.batch = config->batch;
        queue->flow.spins = config->spins;
        queue->flow.copy = loop ? aligned_alloc(64, FLOW_SIZE_MAX) : NULL;
        if (loop && !queue->flow.copy)
            ret = -ENOMEM;
        else if (loop)
            memset(queue->flow.copy, 0x5a, FLOW_SIZE_MAX);
    }
    end->listener = ret ? ret : wire_listen(path);
    ret = end->listener < 0 ? end->listener : 0;
    if (!ret && loop)
        ret = bench_loop_add(loop, &end->party);
    if (!ret)
        ret = device_host_take(host, end);
    if (ret) {
        device_end_free(end);
        return ret;
    }
    *out = end;
    return 0;
}

void device_end_free(struct device_end *end)
{
    device_end_hang_up(end);
    if (end->loop)
        bench_loop_remove(end->loop, &end->party);
    if (end->listener >= 0)
        close(end->listener);
    for (unsigned i = 0; i < end->queue_count; i++)
        free(end->queues[i].flow.copy);
    free(end);
}

const struct flow_device *device_end_flow(const struct device_end *end, unsigned queue)
{
    return &end->queues[queue].flow;
}

struct device_spent device_end_take_spent(struct device_end *end)
{
    return (struct device_spent){
        .drain_ns = atomic_exchange(&end->drain_ns, 0),
        .handled_ns = atomic_exchange(&end->handled_ns, 0),
    };
}
