/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stopping a ring: the back-end lets go of it, and everything that it took is complete.
 *
 * GET_VRING_BASE is meant to do that. Some back-ends (those built on libvhost-user) answer it
 * first, forget the call fd, complete what is in flight later, and give up the connection when they
 * cannot call then. So nothing should want to call: a relay asks the back-end not to; and from a
 * back-end that is lazy like that, or expected to be, direct rings are run dry first (dry.c).
 *
 * How far a direct ring has been used can be read off a split one. It cannot off a packed one:
 * where a used element stands, nothing tells how many descriptors it stands for. There the answer
 * itself says it, in its upper half, and a back-end that has not completed everything is asked
 * again.
 *
 * All of a device's rings are stopped at the same time, step by step: the guest waits for the
 * slowest step once, not for each ring's steps in turn. A back-end may be lost between any two
 * answers. Then the rings that it has answered for have stopped, and the others have not.
 */
#include "device/internal.h"

#include <poll.h>
#include <sys/socket.h>

/* How often to look for the last completions before sleeping between looks. */
#define EAGER_LOOKS 100

/* A ring that is being stopped. */
struct halt {
    struct svq_queue *queue;
    bool ready;    /* its relay, if it has one, takes nothing new from the guest */
    bool hurry;    /* for the worker: do not wait for what the relay owes */
    bool asking;   /* where it stopped */
    bool answered; /* the back-end has stopped it ... */
    uint32_t base; /* ... at this index; of a direct packed ring, what it answered last */
    bool over;     /* drained, or given up for */
    int result;    /* of the worker's look: svq_relay_drained() */
    int err;
};

#define for_each_halt(h, halts, count) for (struct halt *h = (halts); h < (halts) + (count); h++)

/*
 * libvhost-user reads the index for its answer before it stops the queue's thread (virtiofsd),
 * which may take and complete more in between: then used.idx is ahead of the answer, and right.
 */
static uint32_t later_of(uint32_t base, uint16_t completed)
{
    return (int16_t)(completed - (uint16_t)base) > 0 ? completed : base;
}

/*
 * By a packed ring's base: is it used as far as it was taken? DPDK answers with the lower half
 * only, and has completed everything by then.
 */
static int packed_drained(struct svq_queue *queue, uint32_t base)
{
    struct svq_ring_index index = svq_packed_index(base);
    uint32_t taken = base & UINT16_MAX, used = base >> 16;

    if (index.avail >= queue->num || index.used >= queue->num)
        return -EPROTO;
    return taken == used || (!used && !queue->device->link.wide_bases);
}

/* Where a direct ring's next device goes on, now that it is drained. */
static uint32_t next_index(struct svq_queue *queue, uint32_t base)
{
    struct svq_vring guest;

    if (queue_is_packed(queue) || !queue_guest_ring(queue, queue->device->s.map, &guest))
        return base;
    return later_of(base, ring_used_index(&guest) + queue->skew);
}

void halt_look_again(unsigned looks)
{
    if (looks < EAGER_LOOKS)
        svq_fiber_poll(NULL, 0, svq_now());
    else
        svq_fiber_sleep(SVQ_MSEC);
}

/* Has the back-end closed its connection? Then what it has not completed it never will. */
static bool left(struct svq_device *device)
{
    const struct svq_backend *backend = device->link.backend;
    struct pollfd fd = {.events = POLLRDHUP};

    if (!link_up(device))
        return true;
    fd.fd = backend->ops->fd(backend);
    if (poll(&fd, 1, 0) <= 0 || !(fd.revents & (POLLRDHUP | POLLHUP | POLLERR)))
        return false;
    link_lost(device, "back-end closed the connection");
    return true;
}

/* Nothing is due from the back-end. If it has spoken all the same, it is out of step. */
static int check_silence(struct svq_device *device)
{
    const struct svq_backend *backend = device->link.backend;
    struct pollfd fd = {.events = POLLIN};
    char byte;

    if (!link_up(device))
        return 0;
    fd.fd = backend->ops->fd(backend);
    if (poll(&fd, 1, 0) <= 0 || recv(fd.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
        return 0;
    return device_backend_did(device, -EPROTO);
}

static void note_lazy(struct svq_device *device)
{
    if (!device->link.lazy)
        svq_info(device->id, "back-end answers GET_VRING_BASE before it has completed everything; "
                             "its split rings are run dry first from now on");
    device->link.lazy = true;
}

/* ---- Ready to stop ------------------------------------------------------------------------------
 */

/*
 * What a back-end was given again after another one's crash may have to be completed by it: it is
 * not stopped before it has had time for that.
 */
static void hold_unless_owing(struct svq_relay *relay, void *arg)
{
    struct halt *h = arg;

    h->ready = h->hurry || !svq_relay_owes(relay);
    if (h->ready)
        svq_relay_hold(relay, true);
}

/* Return: have all relays stopped taking from the guest? */
static bool hold_relays(struct halt *halts, unsigned count, bool hurry)
{
    struct svq_lane_call calls[MAX_QUEUES];
    unsigned n = 0;

    for_each_halt(h, halts, count) {
        h->ready |= h->queue->wire != WIRE_SHADOW || !h->queue->lane;
        h->hurry = hurry || h->queue->fault;
        if (!h->ready)
            calls[n++] = (struct svq_lane_call){h->queue->lane, true, hold_unless_owing, h};
    }
    svq_lanes_call(calls, n);
    for_each_halt(h, halts, count)
        if (!h->ready)
            return false;
    return true;
}

static void catch_up(struct svq_device *device, struct halt *halts, unsigned count,
                     int64_t deadline)
{
    bool hurry = svq_now() >= deadline;

    for (unsigned looks = 0; !hold_relays(halts, count, hurry); looks++) {
        halt_look_again(looks);
        hurry = svq_now() >= deadline || left(device);
    }
}

static void unhold(struct svq_relay *relay, void *arg)
{
    (void)arg;
    svq_relay_hold(relay, false);
}

void wire_unhold(struct svq_queue *queue)
{
    if (!queue->lane)
        return;
    svq_lane_call(queue->lane, unhold, NULL);
    svq_lane_turn(queue->lane);
}

static void run_dry(struct svq_device *device, struct halt *halts, unsigned count, int64_t deadline)
{
    struct svq_queue *queues[MAX_QUEUES];
    unsigned n = 0;

    for_each_halt(h, halts, count)
        if (dry_needed(h->queue))
            queues[n++] = h->queue;
    dry_run(device, queues, n, deadline);
}

/* ---- Stopped ------------------------------------------------------------------------------------
 */

/*
 * GET_VRING_BASE of those that are `asking`: they stop, or, if they have, the back-end says how far
 * it has come.
 */
static int ask_bases(struct svq_device *device, struct halt *halts, unsigned count)
{
    struct svq_backend *backend = device->link.backend;
    struct svq_vring_stop stops[MAX_QUEUES], *stop = stops;
    int err;

    for_each_halt(h, halts, count)
        if (h->asking)
            *stop++ = (struct svq_vring_stop){
                .index = h->queue->index,
                .call = h->queue->wire == WIRE_SHADOW ? h->queue->backend_call : h->queue->call,
            };
    err = backend->ops->get_vring_bases(backend, stops, stop - stops);
    stop = stops;
    for_each_halt(h, halts, count) {
        if (!h->asking)
            continue;
        if (stop->answered) {
            h->answered = true;
            h->base = stop->base;
            if (device_backend_format(device) == SVQ_RING_PACKED && h->base >> 16)
                device->link.wide_bases = true;
        }
        stop++;
    }
    return device_backend_did(device, err);
}

static int stop_all(struct svq_device *device, struct halt *halts, unsigned count)
{
    int err;

    for_each_halt(h, halts, count)
        h->asking = true;
    err = ask_bases(device, halts, count);
    for_each_halt(h, halts, count) {
        struct svq_queue *queue = h->queue;

        if (h->answered) {
            queue->handed = false;
            queue->halted = queue->wire == WIRE_SHADOW;
            queue->owing = queue->wire == WIRE_DIRECT;
        } else {
            h->over = true;
            h->err = err;
            wire_unhold(queue);
        }
    }
    return err;
}

/* ---- Drained ------------------------------------------------------------------------------------
 */

static void ask_drained(struct svq_relay *relay, void *arg)
{
    struct halt *h = arg;

    h->result = svq_relay_drained(relay, h->base);
}

/* The same of a direct ring, as far as one can see from here. */
static int direct_drained(struct svq_queue *queue, uint32_t base)
{
    struct svq_vring guest;

    if (queue_is_packed(queue))
        return packed_drained(queue, base);
    if (!queue_guest_ring(queue, queue->device->s.map, &guest))
        return 1;
    return (int16_t)(ring_used_index(&guest) - (uint16_t)(base - queue->skew)) >= 0;
}

/* Has the back-end completed all it took? Return: how many rings of which it has not. */
static unsigned look(struct halt *halts, unsigned count)
{
    struct svq_lane_call calls[MAX_QUEUES];
    unsigned n = 0, open = 0;

    for_each_halt(h, halts, count) {
        if (h->over)
            continue;
        h->result = 1;
        if (h->queue->wire == WIRE_DIRECT)
            h->result = direct_drained(h->queue, h->base);
        else if (h->queue->lane && !h->queue->fault)
            calls[n++] = (struct svq_lane_call){h->queue->lane, true, ask_drained, h};
    }
    svq_lanes_call(calls, n);
    for_each_halt(h, halts, count) {
        if (!h->over && h->result < 0)
            wire_report_fault(h->queue, "backend",
                              "its next index lies outside of what it was given");
        h->over |= h->result;
        open += !h->over;
    }
    return open;
}

static void give_up(struct halt *halts, unsigned count, int err)
{
    for_each_halt(h, halts, count) {
        if (!h->over)
            h->err = err;
        h->over = true;
    }
}

/* A packed ring's back-end has to be asked how far it is. */
static int ask_again(struct svq_device *device, struct halt *halts, unsigned count)
{
    bool any = false;

    for_each_halt(h, halts, count) {
        h->asking = !h->over && h->queue->wire == WIRE_DIRECT && queue_is_packed(h->queue);
        any |= h->asking;
    }
    return any ? ask_bases(device, halts, count) : 0;
}

static void wait_drained(struct svq_device *device, struct halt *halts, unsigned count,
                         int64_t deadline)
{
    for (unsigned looks = 0; look(halts, count); looks++) {
        int err = left(device) ? -ENOTCONN : 0;

        if (!err) {
            note_lazy(device);
            if (svq_now() >= deadline)
                err = -ETIMEDOUT;
        }
        if (!err) {
            halt_look_again(looks);
            err = ask_again(device, halts, count);
        }
        if (err)
            give_up(halts, count, err);
    }
}

/* ---- All of it ----------------------------------------------------------------------------------
 */

static void note_stopped(struct halt *h)
{
    struct svq_queue *queue = h->queue;

    if (queue->wire == WIRE_SHADOW) {
        queue->halted_at = h->base;
        return;
    }
    queue->owing = h->err;
    queue->base = next_index(queue, h->base);
    queue->has_base = true;
    queue->wire = WIRE_NONE;
    queue->absorbed = true;
}

/* Return: the back-end's error, or that of a ring that was not drained. */
static int halt(struct svq_device *device, struct halt *halts, unsigned count, int64_t deadline)
{
    int err;

    if (!count)
        return 0;
    run_dry(device, halts, count, deadline);
    catch_up(device, halts, count, deadline);
    err = stop_all(device, halts, count);
    wait_drained(device, halts, count, deadline);
    if (!err)
        err = check_silence(device);
    for_each_halt(h, halts, count) {
        if (h->answered)
            note_stopped(h);
        if (!err || h->err == -ENOTCONN)
            err = h->err;
    }
    return err;
}

/* Return: is there anything to wait for? */
static bool begin(struct svq_queue *queue, struct halt *h)
{
    if (!queue->handed) {
        /* It never started: the back-end has taken nothing of it. */
        queue->wire = WIRE_NONE;
        queue->absorbed = true;
        return false;
    }
    *h = (struct halt){.queue = queue};
    return true;
}

int wire_halt(struct svq_queue *queue, int64_t deadline)
{
    struct halt h;

    return begin(queue, &h) ? halt(queue->device, &h, 1, deadline) : 0;
}

int wire_halt_all(struct svq_device *device, int64_t deadline)
{
    struct halt halts[MAX_QUEUES];
    unsigned count = 0;
    int err;

    for_each_queue(device, i, queue)
        if (queue->wire != WIRE_NONE && begin(queue, &halts[count]))
            count++;
    err = halt(device, halts, count, deadline);
    for_each_halt(h, halts, count)
        if (h->err == -ETIMEDOUT && !device->s.over)
            device_error(device,
                         "queue %u: the back-end has not completed what it took within %.1f s",
                         h->queue->index, (double)device->link.backend->drain_timeout / SVQ_SEC);
    return err;
}
