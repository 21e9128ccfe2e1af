/* SPDX-License-Identifier: BSD-3-Clause */
#include "blk_end.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "clock.h"
#include "sim/random.h"

#define BYTES      4096u
#define SECTOR     512u
#define SEGMENTS   3u
#define CONNECT_MS 5000
#define DRAIN_NS   UINT64_C(5000000000)
#define POISON     UINT64_C(0x5a5aa5a55a5aa5a5)

struct head {
    uint32_t type; /* 0: read */
    uint32_t reserved;
    uint64_t sector;
    uint8_t status;
    uint8_t padding[47];
};

_Static_assert(sizeof(struct head) == 64, "a cache line");

static int fail(struct blk_end *end, int err, const char *what, const char *why)
{
    snprintf(end->error, sizeof(end->error), "guest: %s%s%s", what, why ? ": " : "",
             why ? why : "");
    return err;
}

/* ---- Turns ----------------------------------------------------------------------------------- */

static uint64_t *word(const struct blk_end *end, unsigned id, unsigned at)
{
    return (uint64_t *)(void *)(end->data + (size_t)id * BYTES + at);
}

static void ask(struct blk_end *end)
{
    uint16_t id = end->free_ids[--end->free_count];
    struct head *head = (struct head *)(void *)end->heads + id;
    uint64_t gpa = end->heads_gpa + id * sizeof(*head);
    struct vq_seg segs[SEGMENTS] = {{gpa, 16, false},
                                    {end->data_gpa + (uint64_t)id * BYTES, BYTES, true},
                                    {gpa + offsetof(struct head, status), 1, true}};

    head->sector =
        sim_random_below(&end->random, end->sectors / (BYTES / SECTOR)) * (BYTES / SECTOR);
    head->status = 0xff;
    *word(end, id, 0) = *word(end, id, BYTES - 8) = POISON;
    end->flying[id] = true;
    end->in_flight++;
    vq_put(&end->vq, false, id, segs);
}

/* Return: NULL, or what is wrong with an answer. */
static const char *check(const struct blk_end *end, uint32_t id, uint32_t len)
{
    const struct head *head = (const struct head *)(const void *)end->heads + id;

    if (id >= end->depth || !end->flying[id])
        return "a request came back that was not in flight";
    if (len != BYTES + 1)
        return "a request came back with a wrong length";
    if (head->status)
        return "a read failed";
    if (end->zeroes ? *word(end, id, 0) || *word(end, id, BYTES - 8)
                    : *word(end, id, 0) == POISON && *word(end, id, BYTES - 8) == POISON)
        return "a buffer does not hold what was read";
    return NULL;
}

static unsigned take_turn(void *opaque)
{
    struct blk_end *end = opaque;
    unsigned moved = 0;

    for (; vq_has_used(&end->vq, false) && !end->fault; moved++) {
        uint32_t id, len;

        vq_take_back(&end->vq, false, &id, &len);
        end->fault = check(end, id, len);
        if (end->fault)
            return moved;
        end->flying[id] = false;
        end->in_flight--;
        end->free_ids[end->free_count++] = (uint16_t)id;
        end->done++;
    }
    while (end->offering && end->free_count) {
        ask(end);
        moved++;
    }
    if (vq_publish(&end->vq, false)) {
        end->kicks++;
        eventfd_write(end->guest->queues[0].kick, 1);
    }
    return moved;
}

static bool arm(void *opaque)
{
    return vq_want_calls(&((struct blk_end *)opaque)->vq);
}

static unsigned list_fds(void *opaque, struct pollfd *fds, unsigned room)
{
    if (!room)
        return 0;
    fds[0] =
        (struct pollfd){.fd = ((struct blk_end *)opaque)->guest->queues[0].call, .events = POLLIN};
    return 1;
}

static void awake(void *opaque)
{
    struct blk_end *end = opaque;
    eventfd_t value;

    eventfd_read(end->guest->queues[0].call, &value);
    vq_refuse_calls(&end->vq);
}

/* ---- Making one ------------------------------------------------------------------------------ */

static unsigned ring_size(unsigned depth)
{
    unsigned size = 128;

    while (size < depth * SEGMENTS)
        size *= 2;
    return size;
}

static int place(struct blk_end *end)
{
    uint64_t heads = end->depth * sizeof(struct head), data = (uint64_t)end->depth * BYTES;

    end->heads_gpa = sim_memory_alloc(end->mem, heads, 4096);
    end->data_gpa = sim_memory_alloc(end->mem, data, 4096);
    if (end->heads_gpa == SIM_NO_GPA || end->data_gpa == SIM_NO_GPA)
        return -ENOMEM;
    end->heads = sim_memory_ptr(end->mem, end->heads_gpa, heads);
    end->data = sim_memory_ptr(end->mem, end->data_gpa, data);
    memset(end->heads, 0, heads);
    memset(end->data, 0, data); /* all pages are there from the beginning */
    end->free_ids = calloc(end->depth, sizeof(end->free_ids[0]));
    end->flying = calloc(end->depth, sizeof(end->flying[0]));
    return end->free_ids && end->flying ? 0 : -ENOMEM;
}

int blk_end_init(struct blk_end *end, unsigned depth, bool zeroes, uint64_t seed,
                 struct bench_loop *loop)
{
    struct sim_guest_config config = {.queues = 1,
                                      .queue_size = ring_size(depth),
                                      /* As a guest's block driver has it. */
                                      .features = SVQ_BIT(SVQ_F_EVENT_IDX),
                                      .no_inflight = true};
    uint64_t bytes = (UINT64_C(2) << 20) + depth * UINT64_C(4096 + 4096);
    int ret;

    *end = (struct blk_end){
        .loop = loop,
        .party = {take_turn, arm, list_fds, awake, end},
        .zeroes = zeroes,
        .depth = depth,
        .random = seed,
    };
    ret = sim_memory_new(bytes & ~UINT64_C(0xfffff), 0, &end->mem);
    if (!ret)
        ret = sim_guest_new(&config, end->mem, &end->guest);
    if (!ret)
        ret = place(end);
    return ret ? fail(end, ret, "memory", strerror(-ret)) : 0;
}

void blk_end_release(struct blk_end *end)
{
    if (end->looped)
        bench_loop_remove(end->loop, &end->party);
    sim_guest_free(end->guest);
    sim_memory_free(end->mem);
    free(end->free_ids);
    free(end->flying);
    *end = (struct blk_end){0};
}

/* ---- Connection ------------------------------------------------------------------------------ */

static void restart(struct blk_end *end)
{
    const struct sim_vring *ring = end->guest->queues[0].ring;
    unsigned num = end->guest->config.queue_size;
    struct vq *q = &end->vq;

    vq_init(q, false, true, num, SEGMENTS);
    q->desc = sim_memory_ptr(end->mem, ring->desc_gpa, 16 * num);
    q->driver = sim_memory_ptr(end->mem, ring->avail_gpa, 6 + 2 * num);
    q->device = sim_memory_ptr(end->mem, ring->used_gpa, 6 + 8 * num);
    memset(q->desc, 0, 16 * num);
    memset(q->driver, 0, 6 + 2 * num);
    memset(q->device, 0, 6 + 8 * num);
    vq_refuse_calls(q);
    end->free_count = end->depth;
    end->in_flight = 0;
    end->fault = NULL;
    end->offering = true;
    for (unsigned i = 0; i < end->depth; i++) {
        end->free_ids[i] = (uint16_t)i;
        end->flying[i] = false;
    }
}

int blk_end_connect(struct blk_end *end, const char *path)
{
    int ret;

    restart(end);
    ret = sim_guest_connect(end->guest, path, CONNECT_MS);
    if (!ret)
        ret = sim_guest_read_config(end->guest, 0, &end->sectors, sizeof(end->sectors));
    if (!ret)
        ret = sim_guest_start(end->guest);
    if (ret)
        return fail(end, ret, end->guest->session.error, NULL);
    if (end->sectors < BYTES / SECTOR)
        return fail(end, -ENODEV, "the disk is too small", NULL);
    ret = bench_loop_add(end->loop, &end->party);
    end->looped = !ret;
    return ret;
}

struct question {
    struct blk_end *end;
    uint64_t done;
    uint64_t ns;
    unsigned in_flight;
    const char *fault;
};

static void look(void *arg)
{
    struct question *q = arg;

    q->done = q->end->done;
    q->in_flight = q->end->in_flight;
    q->fault = q->end->fault;
    q->ns = bench_now_ns();
}

static void stop_offering(void *arg)
{
    ((struct blk_end *)arg)->offering = false;
}

int blk_end_count(struct blk_end *end, uint64_t *done, uint64_t *ns)
{
    struct question q = {.end = end};

    bench_loop_call(end->loop, look, &q);
    *done = q.done;
    *ns = q.ns;
    return q.fault ? fail(end, -EPROTO, q.fault, NULL) : 0;
}

static int drain(struct blk_end *end)
{
    uint64_t deadline = bench_now_ns() + DRAIN_NS;

    bench_loop_call(end->loop, stop_offering, end);
    for (;;) {
        struct question q = {.end = end};

        bench_loop_call(end->loop, look, &q);
        if (q.fault)
            return fail(end, -EPROTO, q.fault, NULL);
        if (!q.in_flight)
            return 0;
        if (bench_now_ns() > deadline)
            return fail(end, -ETIMEDOUT, "requests do not come back", NULL);
        bench_sleep_us(200);
    }
}

int blk_end_disconnect(struct blk_end *end)
{
    struct svq_vu_message msg = SIM_REQUEST(GET_VRING_BASE);
    int ret = 0;

    if (end->looped) {
        ret = drain(end);
        bench_loop_remove(end->loop, &end->party);
        end->looped = false;
    }
    msg.header.size = sizeof(msg.payload.state);
    if (!ret)
        ret = sim_session_ask(&end->guest->session, &msg, sizeof(msg.payload.state));
    if (ret && !end->error[0])
        fail(end, ret, end->guest->session.error, NULL);
    sim_guest_disconnect(end->guest);
    return ret;
}
