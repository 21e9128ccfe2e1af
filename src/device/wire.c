/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A ring's connection to the back-end.
 *
 * Back-ends forget a ring's kick, call and addresses when they answer GET_VRING_BASE, so every
 * (re)start tells all of it, in the order that suits them all: size, index, addresses, call, then
 * kick, which starts a crosvm back-end's ring and must find the call set, then enable. What comes
 * before the kick is acked before the kick goes out: a ring must not start on half of its settings.
 */
#include "device/internal.h"
#include "base/notify.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Everything the back-end needs to serve a ring. */
struct wiring {
    struct svq_vu_vring_addr addr;
    unsigned num;
    uint32_t base;
    int call;
    int err;
};

static int tell(struct svq_queue *queue, const struct wiring *w)
{
    struct svq_backend *backend = queue->device->link.backend;
    const struct svq_backend_ops *ops = backend->ops;
    unsigned index = queue->index;
    int err;

    err = ops->set_vring_num(backend, index, w->num);
    if (!err)
        err = ops->set_vring_base(backend, index, w->base);
    if (!err)
        err = ops->set_vring_addr(backend, &w->addr);
    if (!err)
        err = ops->set_vring_fd(backend, SVQ_VU_SET_VRING_CALL, index, w->call);
    if (!err && w->err >= 0)
        err = ops->set_vring_fd(backend, SVQ_VU_SET_VRING_ERR, index, w->err);
    return device_backend_did(queue->device, err);
}

/* Forgotten with the connection, if not with the ring. */
static int tell_endian(struct svq_queue *queue)
{
    struct svq_backend *backend = queue->device->link.backend;
    struct svq_vu_message msg, reply;

    if (!queue->big_endian)
        return 0;
    svq_message_init(&msg, SVQ_VU_SET_VRING_ENDIAN);
    msg.payload.state = (struct svq_vu_vring_state){.index = queue->index, .num = 1};
    msg.header.size = sizeof(msg.payload.state);
    return device_backend_did(queue->device, backend->ops->forward(backend, &msg, &reply));
}

int wire_start(struct svq_queue *queue)
{
    struct svq_backend *backend = queue->device->link.backend;
    int kick = queue->wire == WIRE_SHADOW ? queue->backend_kick : queue->kick;
    int err;

    if (queue->owing)
        inflight_disown(queue, queue->base);
    queue->handed = true;
    err = backend->ops->set_vring_fd(backend, SVQ_VU_SET_VRING_KICK, queue->index, kick);
    /* A ring that was disabled while its back-end was away is to be drained first. */
    if (!err && (queue->enabled || queue->relay) &&
        queue->device->s.features_served & SVQ_BIT(SVQ_F_PROTOCOL_FEATURES))
        err = backend->ops->set_vring_enable(backend, queue->index, true);
    return device_backend_did(queue->device, err);
}

/*
 * DPDK's virtio-user in server mode reconnects with index 0 on a split ring that has been used, and
 * counts on the back-end to go on from used.idx.
 */
uint16_t wire_sane_base(const struct svq_queue *queue, const struct svq_vring *guest)
{
    return queue->base ? (uint16_t)queue->base : ring_used_index(guest);
}

/*
 * A packed ring's base in full. Peers that know 16 bits of it (DPDK, both its ends) leave the upper
 * half 0: nothing is in flight.
 */
uint32_t wire_packed_base(const struct svq_queue *queue)
{
    struct svq_ring_index index = svq_packed_index(queue->base);

    return queue->has_base ? svq_packed_base(&index) : SVQ_PACKED_START;
}

/*
 * Normally a split ring starts with both indices equal. Cloud Hypervisor reconnects at the
 * available index and leaves out what was in flight, so that the used index stays behind for ever.
 */
void wire_note_start(struct svq_queue *queue)
{
    struct svq_vring guest;

    inflight_starts(queue, false);
    if (queue->owing)
        return; /* they lie to each other as they did */
    queue->skew = 0;
    if (!queue_is_packed(queue) && queue_guest_ring(queue, queue->device->s.map, &guest))
        queue->skew = wire_sane_base(queue, &guest) - ring_used_index(&guest);
}

int wire_direct(struct svq_queue *queue)
{
    struct session *s = &queue->device->s;
    struct wiring w = {
        .addr = queue->addr,
        .num = queue->num,
        .call = queue->call,
        .err = queue->err,
    };
    int err;

    if (!(s->logging && s->log_backend))
        w.addr.flags &= ~SVQ_VU_VRING_F_LOG;
    queue->wire = WIRE_DIRECT;
    queue->absorbed = false;
    wire_note_start(queue);
    w.base = queue_is_packed(queue) ? wire_packed_base(queue) : queue->base;
    err = tell_endian(queue);
    return err ? err : tell(queue, &w);
}

/* ---- Through a relay ----------------------------------------------------------------------------
 */

/* The ring broke: the relay stopped by itself; say so to everybody who may want to know. */
void wire_report_fault(struct svq_queue *queue, const char *side, const char *reason)
{
    struct svq_device *device = queue->device;
    const struct svq_event event = {
        .type = SVQ_EVENT_QUEUE_ERROR,
        .id = device->id,
        .queue = queue->index,
        .side = side,
        .reason = reason,
    };

    queue->fault = reason;
    svq_error(device->id, "queue %u stopped, the %s broke its ring: %s", queue->index, side,
              reason);
    device->context->event(device->context->opaque, &event);
    svq_notify(queue->err);
}

static void read_fault(struct svq_relay *relay, void *arg)
{
    struct svq_event *found = arg;
    enum svq_side side = svq_relay_fault(relay, &found->reason);

    found->side = side == SVQ_SIDE_BACKEND ? "backend" : "guest";
}

static void on_fault(void *opaque)
{
    struct svq_queue *queue = opaque;
    struct svq_event found = {0};

    svq_lane_call(queue->lane, read_fault, &found);
    wire_report_fault(queue, found.side, found.reason);
}

static struct wiring shadow_wiring(const struct svq_queue *queue, uint32_t base)
{
    uint64_t rings = queue->device->link.rings_addr;

    return (struct wiring){
        .addr =
            {
                .index = queue->index,
                .desc =
                    svq_relay_shares(queue->relay) ? queue->addr.desc : rings + queue->place.desc,
                .avail = rings + queue->place.driver,
                .used = rings + queue->place.device,
            },
        .num = queue->shadow_num,
        .base = base,
        .call = queue->backend_call,
        .err = -1,
    };
}

/* The back-end's view of a relay's ring, from that index on. Queued. */
static int tell_shadow(struct svq_queue *queue, uint32_t base)
{
    const struct wiring w = shadow_wiring(queue, base);

    queue->wire = WIRE_SHADOW;
    inflight_disown(queue, base);
    return tell(queue, &w);
}

static uint32_t shadow_start(const struct svq_queue *queue)
{
    return device_backend_format(queue->device) == SVQ_RING_PACKED ? SVQ_PACKED_START
                                                                   : SVQ_SPLIT_START;
}

int wire_shadow(struct svq_queue *queue)
{
    const char *why;
    int err = relay_make(queue, &why);

    if (err) {
        device_error(queue->device, "queue %u cannot be shadowed: %s", queue->index, why);
        return err;
    }
    return tell_shadow(queue, shadow_start(queue));
}

static struct svq_lane_config lane_config(struct svq_queue *queue)
{
    return (struct svq_lane_config){
        .relay = queue->relay,
        .guest_kick = queue->kick,
        .guest_call = queue->call,
        .backend_kick = queue->backend_kick,
        .backend_call = queue->backend_call,
        .poll_us = queue->device->poll_us,
        .pinned = queue->worker >= 0,
        .worker = queue->worker < 0 ? 0 : (unsigned)queue->worker,
        .fault = on_fault,
        .opaque = queue,
    };
}

int wire_shadow_go(struct svq_queue *queue)
{
    const struct svq_lane_config config = lane_config(queue);

    return svq_lane_new(queue->device->context->engine, &config, &queue->lane);
}

void wire_shadow_prepare_all(struct svq_device *device)
{
    struct svq_lane_config configs[MAX_QUEUES];
    struct svq_lane *lanes[MAX_QUEUES];
    unsigned count = 0, done = 0;

    for_each_queue(device, i, queue)
        if (queue->ahead && !queue->spare)
            configs[count++] = lane_config(queue);
    /* One that could not be made is made later, or that says what is wrong. */
    svq_lanes_prepare(device->context->engine, configs, count, lanes);
    for_each_queue(device, i, queue)
        if (queue->ahead && !queue->spare)
            queue->spare = lanes[done++];
}

/* Those that have a lane already. */
static void go_at_once(struct svq_device *device)
{
    struct svq_relay *relays[MAX_QUEUES];
    struct svq_lane *lanes[MAX_QUEUES];
    unsigned count = 0;

    for_each_queue(device, i, queue) {
        if (!queue->relay || queue->lane || !queue->spare)
            continue;
        relays[count] = queue->relay;
        lanes[count++] = queue->lane = queue->spare;
        queue->spare = NULL;
    }
    svq_lanes_start(lanes, relays, count);
}

int wire_shadow_go_all(struct svq_device *device)
{
    struct svq_lane_config configs[MAX_QUEUES];
    struct svq_lane *lanes[MAX_QUEUES];
    unsigned count = 0, done = 0;
    int err;

    go_at_once(device);
    for_each_queue(device, i, queue)
        if (queue->relay && !queue->lane)
            configs[count++] = lane_config(queue);
    err = svq_lanes_new(device->context->engine, configs, count, lanes);
    for_each_queue(device, i, queue)
        if (queue->relay && !queue->lane)
            queue->lane = lanes[done++];
    return err;
}

void wire_call_guest(struct svq_queue *queue)
{
    svq_notify(queue->call);
}

void wire_wake(struct svq_queue *queue)
{
    svq_notify(queue->wire == WIRE_SHADOW ? queue->backend_kick : queue->kick);
    svq_notify(queue->call);
}

/* ---- After a halt -------------------------------------------------------------------------------
 */

static void find_resume_base(struct svq_relay *relay, void *arg)
{
    uint32_t *base = arg;

    *base = svq_relay_resume_base(relay, *base);
}

int wire_resume(struct svq_queue *queue)
{
    uint32_t base = queue->halted_at;

    if (queue->lane)
        svq_lane_call(queue->lane, find_resume_base, &base);
    else
        find_resume_base(queue->relay, &base);
    queue->halted = false;
    wire_unhold(queue);
    return tell_shadow(queue, base);
}

int wire_restart(struct svq_queue *queue)
{
    const char *why;
    int err;

    if (svq_relay_fault(queue->relay, &why) == SVQ_SIDE_GUEST) {
        wire_dismantle(queue);
        return 0;
    }
    /* Nobody else touches the relay meanwhile; and there will be other notifications. */
    svq_lane_free(queue->lane);
    queue->lane = NULL;
    err = relay_restart(queue, &why);
    if (err) {
        device_error(queue->device, "queue %u cannot go on: %s", queue->index, why);
        return err;
    }
    queue->fault = NULL;
    /* One that was disabled meanwhile completes what it has, and is stopped then. */
    svq_relay_hold(queue->relay, !queue_runs(queue));
    queue->halted = false;
    queue->handed = false;
    return tell_shadow(queue, shadow_start(queue));
}

void wire_dismantle(struct svq_queue *queue)
{
    svq_lane_free(queue->lane);
    queue->lane = NULL;
    svq_relay_free(relay_end(queue));
}

/* With the lane goes the news of a fault that its last turn may have found. */
static void report_late_fault(struct svq_queue *queue)
{
    struct svq_event found = {0};

    if (!queue->relay || queue->fault)
        return;
    read_fault(queue->relay, &found);
    if (found.reason)
        wire_report_fault(queue, found.side, found.reason);
}

void wire_dismantle_all(struct svq_device *device)
{
    struct svq_lane *lanes[MAX_QUEUES];
    unsigned count = 0;

    for_each_queue(device, i, queue)
        lanes[count++] = queue->lane;
    svq_lanes_stop(lanes, count);
    for_each_queue(device, i, queue) {
        if (queue->lane)
            queue->spare = queue->lane;
        queue->lane = NULL;
        report_late_fault(queue);
        if (queue->relay)
            queue->retired = relay_end(queue);
    }
}

void wire_break(struct svq_queue *queue, const char *reason)
{
    wire_report_fault(queue, "guest", reason);
    wire_halt(queue, svq_now());
    wire_dismantle(queue);
}
