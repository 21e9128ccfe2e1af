/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest_end.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "sim/clock.h"

#define CONNECT_MS 5000
#define DRAIN_NS   UINT64_C(5000000000)

static int fail(struct guest_end *end, int err, const char *what, const char *why)
{
    snprintf(end->error, sizeof(end->error), "guest: %s%s%s", what, why ? ": " : "",
             why ? why : "");
    return err;
}

static int fail_session(struct guest_end *end, int err)
{
    return fail(end, err, end->guest->session.error, NULL);
}

/* ---- Turns ----------------------------------------------------------------------------------- */

static unsigned take_turn(void *opaque)
{
    struct guest_end *end = opaque;
    unsigned moved = 0;

    for (unsigned i = 0; i < end->config.queues; i++)
        moved += flow_driver_turn(&end->drivers[i]);
    return moved;
}

static bool arm(void *opaque)
{
    struct guest_end *end = opaque;
    bool work = false;

    for (unsigned i = 0; i < end->config.queues; i++)
        work |= vq_want_calls(&end->drivers[i].vq);
    return work;
}

static unsigned list_fds(void *opaque, struct pollfd *fds, unsigned room)
{
    struct guest_end *end = opaque;
    unsigned count = 0;

    for (; count < end->config.queues && count < room; count++)
        fds[count] = (struct pollfd){.fd = end->guest->queues[count].call, .events = POLLIN};
    return count;
}

static void awake(void *opaque)
{
    struct guest_end *end = opaque;
    eventfd_t value;

    for (unsigned i = 0; i < end->config.queues; i++) {
        if (vq_has_used(&end->drivers[i].vq, end->config.packed))
            eventfd_read(end->guest->queues[i].call, &value);
        vq_refuse_calls(&end->drivers[i].vq);
    }
}

/* ---- Making one ------------------------------------------------------------------------------ */

static unsigned stride_of(const struct guest_end_config *config)
{
    return (config->size + 63) & ~63u;
}

static uint64_t memory_size(const struct guest_end_config *config)
{
    /* A descriptor, an available and a used entry, and pages in between. */
    uint64_t rings = config->ring_size * UINT64_C(32) + 4 * UINT64_C(4096);
    uint64_t buffers = (uint64_t)config->depth * stride_of(config) + 4096;

    return (config->queues * (rings + buffers) + (UINT64_C(1) << 20)) & ~UINT64_C(0xfffff);
}

static int init_driver(struct guest_end *end, unsigned index)
{
    struct flow_driver *d = &end->drivers[index];
    struct flow_config flow = {
        .transmit = index & 1,
        .depth = end->config.depth,
        .batch = end->config.batch,
        .size = end->config.size,
        .stride = stride_of(&end->config),
        .spins = end->config.spins,
    };
    uint64_t bytes = (uint64_t)flow.depth * flow.stride;

    flow.gpa = sim_memory_alloc(end->mem, bytes, 4096);
    if (flow.gpa == SIM_NO_GPA)
        return -ENOMEM;
    flow.memory = sim_memory_ptr(end->mem, flow.gpa, bytes);
    memset(flow.memory, 0, bytes); /* all pages are there from the beginning */
    d->kick = end->guest->queues[index].kick;
    d->vq.num = end->config.ring_size;
    d->vq.stride = 1;
    return flow_driver_init(d, &flow, end->config.ring_size);
}

int guest_end_init(struct guest_end *end, const struct guest_end_config *config,
                   struct bench_loop *loop)
{
    struct sim_guest_config guest = {
        .queues = config->queues,
        .queue_size = config->ring_size,
        .features = (config->packed ? SVQ_BIT(SVQ_F_RING_PACKED) : 0) |
                    (config->in_order ? SVQ_BIT(SVQ_F_IN_ORDER) : 0) |
                    (config->event_idx ? SVQ_BIT(SVQ_F_EVENT_IDX) : 0),
        .no_inflight = true,
        .polls = config->polls,
    };
    int ret;

    *end = (struct guest_end){
        .config = *config,
        .loop = loop,
        .party = {take_turn, arm, list_fds, awake, end},
    };
    end->drivers = calloc(config->queues, sizeof(end->drivers[0]));
    ret = end->drivers ? sim_memory_new(memory_size(config), 0, &end->mem) : -ENOMEM;
    if (!ret)
        ret = sim_guest_new(&guest, end->mem, &end->guest);
    for (unsigned i = 0; i < config->queues && !ret; i++)
        ret = init_driver(end, i);
    return ret ? fail(end, ret, "memory", strerror(-ret)) : 0;
}

void guest_end_release(struct guest_end *end)
{
    if (end->looped)
        bench_loop_remove(end->loop, &end->party);
    end->looped = false;
    for (unsigned i = 0; end->drivers && i < end->config.queues; i++)
        flow_driver_release(&end->drivers[i]);
    free(end->drivers);
    sim_guest_free(end->guest);
    sim_memory_free(end->mem);
    end->drivers = NULL;
    end->guest = NULL;
    end->mem = NULL;
}

/* ---- Connection ------------------------------------------------------------------------------ */

/* An empty ring, and a driver at its beginning. */
static void restart_queue(struct guest_end *end, unsigned index)
{
    const struct guest_end_config *c = &end->config;
    const struct sim_vring *ring = end->guest->queues[index].ring;
    struct flow_driver *d = &end->drivers[index];
    uint64_t num = c->ring_size;
    uint64_t driver = c->packed ? 4 : 4 + 2 * num + (c->event_idx ? 2 : 0);
    uint64_t device = c->packed ? 4 : 4 + 8 * num + (c->event_idx ? 2 : 0);

    vq_init(&d->vq, c->packed, c->event_idx, c->ring_size, 1);
    d->vq.desc = sim_memory_ptr(end->mem, ring->desc_gpa, 16 * num);
    d->vq.driver = sim_memory_ptr(end->mem, ring->avail_gpa, driver);
    d->vq.device = sim_memory_ptr(end->mem, ring->used_gpa, device);
    memset(d->vq.desc, 0, 16 * num);
    memset(d->vq.driver, 0, driver);
    memset(d->vq.device, 0, device);
    vq_refuse_calls(&d->vq);
    d->offering = false;
    flow_driver_restart(d);
}

int guest_end_connect(struct guest_end *end, const char *path)
{
    int ret;

    for (unsigned i = 0; i < end->config.queues; i++)
        restart_queue(end, i);
    ret = sim_guest_connect(end->guest, path, CONNECT_MS);
    if (!ret)
        ret = sim_guest_start(end->guest);
    if (ret)
        return fail_session(end, ret);
    if (end->config.in_order && !(end->guest->features & SVQ_BIT(SVQ_F_IN_ORDER)))
        return fail(end, -ENOTSUP, "the device does not have IN_ORDER", NULL);
    if (!end->loop)
        return 0;
    ret = bench_loop_add(end->loop, &end->party);
    end->looped = !ret;
    return ret ? fail(end, ret, "too many ends", NULL) : 0;
}

struct question {
    struct guest_end *end;
    bool offer;
    unsigned in_flight;
    const char *fault;
};

static void set_offering(void *arg)
{
    struct question *q = arg;

    for (unsigned i = 0; i < q->end->config.queues; i++)
        q->end->drivers[i].offering = q->offer;
}

static void look(void *arg)
{
    struct question *q = arg;

    for (unsigned i = 0; i < q->end->config.queues; i++) {
        q->in_flight += q->end->drivers[i].in_flight;
        if (!q->fault)
            q->fault = q->end->drivers[i].fault;
    }
}

void guest_end_offer(struct guest_end *end, bool offer)
{
    struct question q = {.end = end, .offer = offer};

    bench_loop_call(end->loop, set_offering, &q);
}

const char *guest_end_fault(const struct guest_end *end)
{
    struct question q = {.end = (struct guest_end *)end};

    bench_loop_call(end->loop, look, &q);
    return q.fault;
}

static int drain(struct guest_end *end)
{
    uint64_t deadline = sim_now() + DRAIN_NS;

    guest_end_offer(end, false);
    for (;;) {
        struct question q = {.end = end};

        bench_loop_call(end->loop, look, &q);
        if (q.fault)
            return fail(end, -EPROTO, q.fault, NULL);
        if (!q.in_flight)
            return 0;
        if (sim_now() > deadline)
            return fail(end, -ETIMEDOUT, "buffers in flight do not come back", NULL);
        bench_sleep_us(200);
    }
}

/* Whoever zeroes the rings afterwards must know that nobody looks at them any more. */
static int stop(struct guest_end *end)
{
    int ret = 0;

    for (unsigned i = 0; i < end->config.queues && !ret; i++) {
        struct svq_vu_message msg = SIM_REQUEST(GET_VRING_BASE);

        msg.header.size = sizeof(msg.payload.state);
        msg.payload.state.index = i;
        ret = sim_session_ask(&end->guest->session, &msg, sizeof(msg.payload.state));
    }
    return ret ? fail_session(end, ret) : 0;
}

int guest_end_disconnect(struct guest_end *end)
{
    int ret = 0;

    if (end->looped) {
        ret = drain(end);
        bench_loop_remove(end->loop, &end->party);
        end->looped = false;
    }
    if (!ret && end->guest->session.sock >= 0)
        ret = stop(end);
    sim_guest_disconnect(end->guest);
    return ret;
}

int guest_end_log(struct guest_end *end, bool on)
{
    int ret;

    if (on == (end->guest->log != NULL))
        return 0;
    ret = on ? sim_guest_log_start(end->guest) : sim_guest_log_stop(end->guest);
    return ret ? fail_session(end, ret) : 0;
}
