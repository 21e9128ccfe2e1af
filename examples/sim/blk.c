/* SPDX-License-Identifier: BSD-3-Clause */
#include "blk_queue.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "random.h"

#define DEFAULT_STALL_MS 10000

struct sim_blk {
    struct sim_blk_config config;
    struct sim_disk *disk;
    unsigned count;
    struct sim_blk_queue *queues;
};

bool sim_blk_fail(struct sim_blk_queue *queue, const char *format, ...)
{
    va_list args;
    int len;

    if (atomic_load(&queue->failed))
        return false;
    len = snprintf(queue->error, sizeof(queue->error), "queue %u: ", queue->index);
    va_start(args, format);
    vsnprintf(queue->error + len, sizeof(queue->error) - (size_t)len, format, args);
    va_end(args);
    atomic_store(&queue->failed, true);
    return false;
}

/* ---- The queue's thread ------------------------------------------------------------------- */

/* By what stands in the used ring, there must be a call, or one on its way. */
static void look_for_call(struct sim_blk_queue *queue)
{
    const struct sim_vring *ring = queue->vq->ring;
    struct pollfd pfd = {.fd = queue->vq->call, .events = POLLIN};

    if (sim_vring_call_due(ring) && !poll(&pfd, 1, (int)queue->config->stall_ms / 3))
        sim_blk_fail(queue, "requests were completed, but no call came (used.idx %u, seen %u)",
                     sim_vring_device_idx(ring), ring->used_idx);
}

/* Nothing came for a while. Is that the device's fault? */
static void look_for_fault(struct sim_blk_queue *queue)
{
    const struct sim_vring *ring = queue->vq->ring;
    uint64_t idle_ms = (sim_now() - queue->progress) / 1000000;

    if (sim_vring_call_due(ring)) {
        look_for_call(queue);
        return;
    }
    if (idle_ms >= queue->config->stall_ms)
        sim_blk_fail(queue,
                     "no completion for %llu ms: %u in flight, avail.idx %u, used.idx %u, seen %u",
                     (unsigned long long)idle_ms, ring->outstanding, ring->published_idx,
                     sim_vring_device_idx(ring), ring->used_idx);
}

/* Sleep until the device calls. */
static void wait_for_call(struct sim_blk_queue *queue)
{
    struct sim_vring *ring = queue->vq->ring;
    struct pollfd pfds[] = {{.fd = queue->vq->call, .events = POLLIN},
                            {.fd = queue->wake, .events = POLLIN}};
    unsigned after = 1;
    eventfd_t value;
    int ready;

    /* Half of the time only when most is done, as Linux does for its transmit queues. */
    if (sim_random_below(&queue->random, 2))
        after = ring->outstanding * 3 / 4;
    if (sim_vring_want_calls(ring, after))
        return;
    ready = poll(pfds, 2, (int)queue->config->stall_ms / 5);
    if (!ready)
        look_for_fault(queue);
    if (pfds[0].revents & POLLIN) {
        eventfd_read(queue->vq->call, &value);
        atomic_fetch_add_explicit(&queue->counters.calls, 1, memory_order_relaxed);
        sim_vring_refuse_calls(ring);
    }
}

static void *run_queue(void *opaque)
{
    struct sim_blk_queue *queue = opaque;

    queue->progress = sim_now();
    while (!atomic_load(&queue->stop) && !atomic_load(&queue->failed)) {
        unsigned moved = sim_blk_reap(queue);

        if (atomic_load(&queue->failed))
            break;
        moved += sim_blk_issue(queue);
        if (moved)
            continue;
        if (!queue->vq->ring->outstanding)
            break;
        wait_for_call(queue);
    }
    return NULL;
}

/* ---- Control ------------------------------------------------------------------------------ */

/* A queue's parts of guest memory. */
static int place(struct sim_blk_queue *queue)
{
    struct sim_memory *mem = queue->vq->ring->mem;
    uint64_t depth = queue->config->depth;

    queue->headers = sim_memory_alloc(mem, depth * 16, SIM_PAGE);
    queue->states = sim_memory_alloc(mem, depth, SIM_PAGE);
    queue->tables = sim_memory_alloc(mem, depth * SIM_BLK_SEGMENTS * 16, SIM_PAGE);
    queue->buffers = sim_memory_alloc(mem, 2 * depth * queue->config->max_bytes, SIM_PAGE);
    queue->scratch = sim_memory_alloc(mem, queue->config->scratch_bytes, SIM_PAGE);
    return queue->headers == SIM_NO_GPA || queue->states == SIM_NO_GPA ||
                   queue->tables == SIM_NO_GPA || queue->buffers == SIM_NO_GPA ||
                   queue->scratch == SIM_NO_GPA
               ? -ENOMEM
               : 0;
}

static int init_queue(struct sim_blk *blk, struct sim_guest *guest, unsigned index)
{
    struct sim_blk_queue *queue = &blk->queues[index];
    unsigned depth = blk->config.depth;

    queue->index = index;
    queue->config = &blk->config;
    queue->vq = &guest->queues[index];
    queue->disk = blk->disk;
    queue->indirect = guest->config.features & SVQ_BIT(SVQ_F_INDIRECT_DESC);
    queue->flush = guest->config.features & SVQ_BIT(SIM_BLK_F_FLUSH);
    queue->random = blk->config.seed + index * 7919;
    queue->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->wake < 0)
        return -errno;
    queue->requests = calloc(depth, sizeof(*queue->requests));
    queue->free_requests = calloc(depth, sizeof(*queue->free_requests));
    queue->read_buffers.free = calloc(depth, sizeof(*queue->read_buffers.free));
    queue->write_buffers.free = calloc(depth, sizeof(*queue->write_buffers.free));
    if (!queue->requests || !queue->free_requests || !queue->read_buffers.free ||
        !queue->write_buffers.free)
        return -ENOMEM;
    for (unsigned i = 0; i < depth; i++) {
        queue->free_requests[queue->free_request_count++] = (uint16_t)i;
        queue->read_buffers.free[queue->read_buffers.count++] = (uint16_t)i;
        queue->write_buffers.free[queue->write_buffers.count++] = (uint16_t)(depth + i);
    }
    return place(queue);
}

int sim_blk_new(const struct sim_blk_config *config, struct sim_guest *guest, struct sim_disk *disk,
                struct sim_blk **out)
{
    unsigned count = guest->config.queues;
    struct sim_blk *blk;
    int ret = 0;

    if (!config->depth || config->depth > 32767 || !config->max_bytes ||
        config->max_bytes % SIM_PAGE || disk->sectors / count * SIM_SECTOR < config->max_bytes)
        return -EINVAL;
    blk = calloc(1, sizeof(*blk));
    if (!blk)
        return -ENOMEM;
    blk->config = *config;
    if (!blk->config.stall_ms)
        blk->config.stall_ms = DEFAULT_STALL_MS;
    blk->disk = disk;
    blk->queues = calloc(count, sizeof(*blk->queues));
    if (!blk->queues)
        ret = -ENOMEM;
    for (unsigned i = 0; i < count && !ret; i++) {
        blk->queues[i].wake = -1;
        blk->count++;
        ret = init_queue(blk, guest, i);
    }
    if (ret) {
        sim_blk_free(blk);
        return ret;
    }
    *out = blk;
    return 0;
}

void sim_blk_free(struct sim_blk *blk)
{
    if (!blk)
        return;
    sim_blk_pause(blk);
    for (unsigned i = 0; i < blk->count; i++) {
        struct sim_blk_queue *queue = &blk->queues[i];

        if (queue->wake >= 0)
            close(queue->wake);
        free(queue->requests);
        free(queue->free_requests);
        free(queue->read_buffers.free);
        free(queue->write_buffers.free);
    }
    free(blk->queues);
    free(blk);
}

/* Part number `part` of the disk is this queue's. */
static void assign_part(struct sim_blk *blk, struct sim_blk_queue *queue, unsigned part)
{
    uint64_t sectors = blk->disk->sectors;

    queue->first_sector = sectors * part / blk->count;
    queue->end_sector = sectors * (part + 1) / blk->count;
    queue->cursor = queue->first_sector;
}

static int start_threads(struct sim_blk *blk, enum sim_blk_task task, unsigned rotate)
{
    sigset_t all, old;
    int ret = 0;

    /* Signals are for the thread that controls us. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned i = 0; i < blk->count && !ret; i++) {
        struct sim_blk_queue *queue = &blk->queues[i];
        eventfd_t value;

        eventfd_read(queue->wake, &value);
        atomic_store(&queue->stop, false);
        queue->task = task;
        assign_part(blk, queue, (i + rotate) % blk->count);
        ret = -pthread_create(&queue->thread, NULL, run_queue, queue);
        queue->running = !ret;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret)
        sim_blk_pause(blk);
    return ret;
}

static void join_threads(struct sim_blk *blk)
{
    for (unsigned i = 0; i < blk->count; i++) {
        struct sim_blk_queue *queue = &blk->queues[i];

        if (!queue->running)
            continue;
        pthread_join(queue->thread, NULL);
        queue->running = false;
        if (!atomic_load(&queue->failed))
            look_for_call(queue);
    }
}

int sim_blk_run(struct sim_blk *blk)
{
    return start_threads(blk, SIM_BLK_RANDOM, 0);
}

void sim_blk_pause(struct sim_blk *blk)
{
    for (unsigned i = 0; i < blk->count; i++) {
        atomic_store(&blk->queues[i].stop, true);
        eventfd_write(blk->queues[i].wake, 1);
    }
    join_threads(blk);
}

int sim_blk_finish(struct sim_blk *blk)
{
    int ret;

    sim_blk_pause(blk);
    ret = start_threads(blk, SIM_BLK_DRAIN, 0);
    if (ret)
        return ret;
    join_threads(blk);
    return sim_blk_error(blk) ? -EIO : 0;
}

int sim_blk_scan(struct sim_blk *blk)
{
    int ret = start_threads(blk, SIM_BLK_SCAN, 1);

    if (ret)
        return ret;
    join_threads(blk);
    return sim_blk_error(blk) ? -EIO : 0;
}

const char *sim_blk_error(struct sim_blk *blk)
{
    for (unsigned i = 0; i < blk->count; i++) {
        if (atomic_load(&blk->queues[i].failed))
            return blk->queues[i].error;
    }
    return NULL;
}

void sim_blk_stats(const struct sim_blk *blk, struct sim_blk_stats *stats)
{
    memset(stats, 0, sizeof(*stats));
    for (unsigned i = 0; i < blk->count; i++) {
        const struct sim_blk_counters *c = &blk->queues[i].counters;

        stats->reads += atomic_load_explicit(&c->reads, memory_order_relaxed);
        stats->writes += atomic_load_explicit(&c->writes, memory_order_relaxed);
        stats->flushes += atomic_load_explicit(&c->flushes, memory_order_relaxed);
        stats->bytes += atomic_load_explicit(&c->bytes, memory_order_relaxed);
        stats->kicks += atomic_load_explicit(&c->kicks, memory_order_relaxed);
        stats->calls += atomic_load_explicit(&c->calls, memory_order_relaxed);
    }
    stats->requests = stats->reads + stats->writes + stats->flushes;
}

uint64_t sim_blk_take_longest(struct sim_blk *blk)
{
    uint64_t longest = 0;

    for (unsigned i = 0; i < blk->count; i++) {
        uint64_t took = atomic_exchange(&blk->queues[i].counters.longest, 0);

        if (took > longest)
            longest = took;
    }
    return longest / 1000;
}

unsigned sim_blk_in_flight(const struct sim_blk *blk)
{
    unsigned in_flight = 0;

    for (unsigned i = 0; i < blk->count; i++)
        in_flight += blk->queues[i].vq->ring->outstanding;
    return in_flight;
}
