/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests of a block queue: how they are made, and what is checked when they come back.
 *
 * Most reads go to buffers that the guest's CPUs never write to, not even to clear them first: what
 * only the device writes is what a dirty log is needed for. A read that brought nothing still
 * shows, as the buffer then holds some other sector, or another generation of this one.
 */
#include "blk_queue.h"

#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>

#include "clock.h"
#include "random.h"

#define BLK_T_IN    0
#define BLK_T_OUT   1
#define BLK_T_FLUSH 4
#define HEADER_SIZE 16
#define STATE_UNSET 0xff
#define DESC_SIZE   16

static uint64_t below(struct sim_blk_queue *queue, uint64_t limit)
{
    return sim_random_below(&queue->random, limit);
}

static bool one_in(struct sim_blk_queue *queue, unsigned n)
{
    return !below(queue, n);
}

static unsigned index_of(const struct sim_blk_queue *queue, const struct sim_blk_request *req)
{
    return (unsigned)(req - queue->requests);
}

/* Half of all requests are a page, as a file system's are; the rest is anything. */
static uint32_t random_sectors(struct sim_blk_queue *queue)
{
    uint32_t max = queue->config->max_bytes / SIM_SECTOR;

    switch (below(queue, 4)) {
    case 0:
    case 1:
        return SIM_PAGE / SIM_SECTOR;
    case 2:
        return 1 + (uint32_t)below(queue, 8);
    default:
        return 1 + (uint32_t)below(queue, max);
    }
}

static bool choose_random(struct sim_blk_queue *queue, struct sim_blk_request *req)
{
    uint32_t count = random_sectors(queue);
    uint64_t room = queue->end_sector - queue->first_sector - count;

    req->bytes = count * SIM_SECTOR;
    req->type = below(queue, 16) < 9 ? BLK_T_IN : BLK_T_OUT;
    if (queue->flush && one_in(queue, 128)) {
        req->type = BLK_T_FLUSH;
        req->sector = 0;
        req->bytes = 0;
        return true;
    }
    for (unsigned tries = 0; tries < 8; tries++) {
        req->sector = queue->first_sector + below(queue, room + 1);
        if (sim_disk_take(queue->disk, req->sector, count, req->type == BLK_T_OUT))
            return true;
    }
    return false;
}

static bool choose_next(struct sim_blk_queue *queue, struct sim_blk_request *req)
{
    uint64_t left = queue->end_sector - queue->cursor;
    uint64_t count = queue->config->max_bytes / SIM_SECTOR;

    if (!left)
        return false;
    if (count > left)
        count = left;
    req->type = BLK_T_IN;
    req->sector = queue->cursor;
    req->bytes = (uint32_t)count * SIM_SECTOR;
    queue->cursor += count;
    return sim_disk_take(queue->disk, req->sector, count, false);
}

static void take_buffer(struct sim_blk_queue *queue, struct sim_blk_request *req)
{
    bool read = req->type == BLK_T_IN && !one_in(queue, 8);
    struct sim_blk_pool *pool = read ? &queue->read_buffers : &queue->write_buffers;
    unsigned pick = (unsigned)below(queue, pool->count);
    uint32_t room = queue->config->max_bytes - req->bytes;

    req->buffer = pool->free[pick];
    pool->free[pick] = pool->free[--pool->count];
    req->data = queue->buffers + (uint64_t)req->buffer * queue->config->max_bytes;
    /* Not always at the start of a page. */
    if (one_in(queue, 4))
        req->data += below(queue, room / SIM_SECTOR + 1) * SIM_SECTOR;
}

/* Cut [gpa, gpa + len) into at most `max` segments. Return: how many. */
static unsigned cut(struct sim_blk_queue *queue, uint64_t gpa, uint32_t len, unsigned max,
                    struct sim_segment *segments)
{
    unsigned count = 0;

    while (count + 1 < max && len > 64 && one_in(queue, 2)) {
        uint32_t piece = 1 + (uint32_t)below(queue, len - 1);

        segments[count++] = (struct sim_segment){.gpa = gpa, .len = piece};
        gpa += piece;
        len -= piece;
    }
    segments[count++] = (struct sim_segment){.gpa = gpa, .len = len};
    return count;
}

/* The parts of the request that the guest's CPU writes: header, data, a state to overwrite. */
static void fill(struct sim_blk_queue *queue, const struct sim_blk_request *req)
{
    struct sim_memory *mem = queue->vq->ring->mem;
    uint64_t header = queue->headers + index_of(queue, req) * HEADER_SIZE;
    uint64_t state = queue->states + index_of(queue, req);
    _Atomic uint64_t *words = sim_memory_ptr(mem, header, HEADER_SIZE);

    atomic_store_explicit(&words[0], req->type, memory_order_relaxed);
    atomic_store_explicit(&words[1], req->sector, memory_order_relaxed);
    sim_memory_mark(mem, header, HEADER_SIZE);
    atomic_store_explicit((_Atomic uint8_t *)sim_memory_ptr(mem, state, 1), STATE_UNSET,
                          memory_order_relaxed);
    sim_memory_mark(mem, state, 1);
    if (req->type == BLK_T_OUT) {
        sim_disk_fill(queue->disk, req->sector, req->bytes / SIM_SECTOR,
                      sim_memory_ptr(mem, req->data, req->bytes));
        sim_memory_mark(mem, req->data, req->bytes);
    }
}

static int submit(struct sim_blk_queue *queue, struct sim_blk_request *req)
{
    unsigned index = index_of(queue, req);
    uint64_t header = queue->headers + (uint64_t)index * HEADER_SIZE;
    uint64_t table = queue->tables + (uint64_t)index * SIM_BLK_SEGMENTS * DESC_SIZE;
    struct sim_segment segments[SIM_BLK_SEGMENTS];
    unsigned out, in = 0;

    /* Two for the header, five for the data, one for the state: SIM_BLK_SEGMENTS. */
    if (one_in(queue, 16)) {
        segments[0] = (struct sim_segment){.gpa = header, .len = 4};
        segments[1] = (struct sim_segment){.gpa = header + 4, .len = HEADER_SIZE - 4};
        out = 2;
    } else {
        segments[0] = (struct sim_segment){.gpa = header, .len = HEADER_SIZE};
        out = 1;
    }
    if (req->type == BLK_T_OUT)
        out += cut(queue, req->data, req->bytes, 5, segments + out);
    else if (req->type == BLK_T_IN)
        in = cut(queue, req->data, req->bytes, 5, segments + out);
    segments[out + in++] = (struct sim_segment){.gpa = queue->states + index, .len = 1};
    if (!queue->indirect || one_in(queue, 2))
        table = SIM_NO_GPA;
    return sim_vring_add(queue->vq->ring, segments, out, in, table, req);
}

static void release(struct sim_blk_queue *queue, struct sim_blk_request *req, bool done)
{
    bool read = req->buffer < queue->config->depth;
    struct sim_blk_pool *pool = read ? &queue->read_buffers : &queue->write_buffers;

    if (req->bytes)
        sim_disk_give(queue->disk, req->sector, req->bytes / SIM_SECTOR, req->type == BLK_T_OUT,
                      done);
    pool->free[pool->count++] = (uint16_t)req->buffer;
    queue->free_requests[queue->free_request_count++] = (uint16_t)index_of(queue, req);
}

/* The rest of the guest's memory is in use as well. */
static void scribble(struct sim_blk_queue *queue)
{
    struct sim_memory *mem = queue->vq->ring->mem;
    uint64_t words = queue->config->scratch_bytes / sizeof(uint64_t);
    uint64_t gpa;

    if (!words)
        return;
    gpa = queue->scratch + below(queue, words) * sizeof(uint64_t);
    atomic_store_explicit((_Atomic uint64_t *)sim_memory_ptr(mem, gpa, sizeof(uint64_t)),
                          sim_random(&queue->random), memory_order_relaxed);
    sim_memory_mark(mem, gpa, sizeof(uint64_t));
}

unsigned sim_blk_issue(struct sim_blk_queue *queue)
{
    unsigned issued = 0;

    while (queue->free_request_count && queue->task != SIM_BLK_DRAIN) {
        unsigned index = queue->free_requests[queue->free_request_count - 1];
        struct sim_blk_request *req = &queue->requests[index];
        bool chosen =
            queue->task == SIM_BLK_SCAN ? choose_next(queue, req) : choose_random(queue, req);

        if (!chosen)
            break;
        queue->free_request_count--;
        take_buffer(queue, req);
        fill(queue, req);
        req->start = sim_now();
        if (submit(queue, req)) {
            /* The ring is full: this one is for another time. */
            release(queue, req, false);
            if (queue->task == SIM_BLK_SCAN)
                queue->cursor = req->sector;
            break;
        }
        issued++;
        if (one_in(queue, 64))
            scribble(queue);
    }
    if (sim_vring_publish(queue->vq->ring)) {
        eventfd_write(queue->vq->kick, 1);
        atomic_fetch_add_explicit(&queue->counters.kicks, 1, memory_order_relaxed);
    }
    return issued;
}

static void count(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

static void account(struct sim_blk_queue *queue, const struct sim_blk_request *req)
{
    struct sim_blk_counters *counters = &queue->counters;
    uint64_t took = sim_now() - req->start;

    count(req->type == BLK_T_IN    ? &counters->reads
          : req->type == BLK_T_OUT ? &counters->writes
                                   : &counters->flushes,
          1);
    count(&counters->bytes, req->bytes);
    if (took > atomic_load_explicit(&counters->longest, memory_order_relaxed))
        atomic_store_explicit(&counters->longest, took, memory_order_relaxed);
}

static bool check(struct sim_blk_queue *queue, const struct sim_blk_request *req, uint32_t len)
{
    struct sim_memory *mem = queue->vq->ring->mem;
    uint64_t state_gpa = queue->states + index_of(queue, req);
    uint8_t state = atomic_load_explicit((_Atomic uint8_t *)sim_memory_ptr(mem, state_gpa, 1),
                                         memory_order_relaxed);
    static const char *const names[] = {"read", "write", "?", "?", "flush"};
    char why[160];

    if (state)
        return sim_blk_fail(
            queue, "%s of %u bytes at sector %" PRIu64 ": %s (state 0x%x)", names[req->type],
            req->bytes, req->sector,
            state == STATE_UNSET ? "completed without a state" : "the device failed it", state);
    if (req->type != BLK_T_IN)
        return true;
    if (len < req->bytes)
        return sim_blk_fail(queue, "read of %u bytes: the device says it wrote %u", req->bytes,
                            len);
    if (sim_disk_check(queue->disk, req->sector, req->bytes / SIM_SECTOR,
                       sim_memory_ptr(mem, req->data, req->bytes), why, sizeof(why)))
        return true;
    return sim_blk_fail(queue, "read of %u bytes at sector %" PRIu64 ": %s", req->bytes,
                        req->sector, why);
}

unsigned sim_blk_reap(struct sim_blk_queue *queue)
{
    struct sim_vring *ring = queue->vq->ring;
    struct sim_blk_request *req;
    unsigned reaped = 0;
    uint32_t len;

    while ((req = sim_vring_pop(ring, &len)) != NULL) {
        if (!check(queue, req, len))
            break;
        account(queue, req);
        release(queue, req, true);
        reaped++;
    }
    if (ring->error)
        sim_blk_fail(queue, "%s", ring->error);
    if (reaped)
        queue->progress = sim_now();
    return reaped;
}
