/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the front-end says of each ring. It is always remembered; in pass-through it also goes to
 * the back-end as it comes, so that the exchange is the one the front-end would have had without
 * us. While shadowing it is absorbed, and the back-end hears of the shadow ring instead.
 */
#include "device/internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct svq_queue *queue_get(struct svq_device *device, uint32_t index)
{
    struct svq_queue *queue;

    if (index >= MAX_QUEUES || (device->s.queue_num && index >= device->s.queue_num * 2)) {
        svq_error(device->id, "front-end named queue %u of a device that has fewer", index);
        return NULL;
    }
    if (device->s.queues[index])
        return device->s.queues[index];
    queue = calloc(1, sizeof(*queue));
    if (!queue)
        return NULL;
    queue->device = device;
    queue->index = index;
    queue->kick = queue->call = queue->err = -1;
    queue->backend_kick = queue->backend_call = -1;
    queue->worker = -1;
    device->s.queues[index] = queue;
    return queue;
}

static struct svq_backend *backend_of(const struct svq_queue *queue)
{
    return queue->device->link.backend;
}

static int flushed(struct svq_queue *queue, int err)
{
    if (!err)
        err = backend_of(queue)->ops->flush(backend_of(queue));
    return device_backend_did(queue->device, err);
}

/* Likewise of a setting, which is remembered: the back-end's loss is no failure. */
static int told(struct svq_queue *queue, int err)
{
    if (!err)
        err = backend_of(queue)->ops->flush(backend_of(queue));
    return device_told(queue->device, err);
}

/* Without protocol features a ring is enabled from its start ("Ring states"). */
bool queue_runs(const struct svq_queue *queue)
{
    return queue->started && !queue->fault &&
           (queue->enabled || !device_acked(queue->device, SVQ_F_PROTOCOL_FEATURES));
}

/* Alignment of the three areas: virtio 1.3 sections 2.7 and 2.8.10.1. */
static bool aligned(enum svq_ring_format format, uint64_t desc, uint64_t driver, uint64_t device)
{
    return desc % 16 == 0 && driver % (format == SVQ_RING_PACKED ? 4 : 2) == 0 && device % 4 == 0;
}

bool queue_guest_ring(const struct svq_queue *queue, const struct svq_map *map,
                      struct svq_vring *ring)
{
    enum svq_ring_format format = device_guest_format(queue->device);
    unsigned num = queue->num;

    if (!map || !queue->has_addr || !num)
        return false;
    ring->desc = svq_map_uaddr(map, queue->addr.desc, svq_vring_desc_size(format, num));
    ring->driver = svq_map_uaddr(map, queue->addr.avail, svq_vring_driver_size(format, num));
    ring->device = svq_map_uaddr(map, queue->addr.used, svq_vring_device_size(format, num));
    /* A region may begin anywhere in its file: what counts is where it lies here. */
    return ring->desc && ring->driver && ring->device &&
           aligned(format, (uintptr_t)ring->desc, (uintptr_t)ring->driver, (uintptr_t)ring->device);
}

static void forget_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Should the back-end hear of this ring's settings as they come? */
static bool direct(const struct svq_queue *queue)
{
    return !queue->device->s.shadow && link_up(queue->device);
}

/* ---- Starting and stopping ----------------------------------------------------------------------
 */

/* Before a ring starts: the in-flight region, unless the back-end has one that will do. */
static int prepare_region(struct svq_queue *queue)
{
    struct svq_device *device = queue->device;
    int err;

    if (!shadow_device_wired(device))
        return inflight_tell(device);
    if (device->s.shadow || inflight_covers(queue))
        return 0;
    err = shadow_renew(device);
    if (err || inflight_covers(queue))
        return err;
    device_error(
        device,
        "queue %u is larger than the back-end's in-flight region, which cannot be changed: "
        "other queues' requests do not complete",
        queue->index);
    return -EBUSY;
}

/* Connect a ring in the device's mode. */
static int connect_ring(struct svq_queue *queue)
{
    bool shadow = queue->device->s.shadow;
    int err = prepare_region(queue);

    if (!err && queue->wire != WIRE_NONE)
        return 0; /* all got a new region, and this one was started with the others */
    if (!err)
        err = shadow ? wire_shadow(queue) : wire_direct(queue);
    if (!err)
        err = flushed(queue, 0);
    if (!err)
        err = flushed(queue, wire_start(queue));
    if (!err && shadow)
        err = wire_shadow_go(queue);
    if (err == -EBADMSG)
        wire_report_fault(queue, "guest", "its in-flight region contradicts itself or the ring");
    if (err && queue->relay)
        wire_dismantle(queue);
    if (err)
        return err == -ENOTCONN && !queue->device->s.over ? 0 : err;
    queue->stranded = false;
    wire_wake(queue);
    return 0;
}

static int queue_start(struct svq_queue *queue)
{
    if (!queue_runs(queue) || queue->wire != WIRE_NONE || !link_up(queue->device))
        return 0; /* now, or not yet */
    return connect_ring(queue);
}

int queue_unshadow(struct svq_queue *queue, int64_t deadline, const char *how)
{
    int err = queue->halted ? 0 : wire_halt(queue, deadline);

    if (err && !link_up(queue->device))
        return err;
    if (err == -ETIMEDOUT && !queue->device->s.over)
        device_error(queue->device,
                     "queue %u %s although the back-end has not completed everything", queue->index,
                     how);
    wire_dismantle(queue);
    return err;
}

int queue_rest(struct svq_queue *queue, const char *how)
{
    struct svq_device *device = queue->device;
    int64_t drain_timeout = backend_of(queue)->drain_timeout;
    /* One that crashes whenever it is to stop a ring is not waited for without end. */
    int64_t limit = svq_deadline(device->message_timeout + drain_timeout);
    int err;

    do {
        if (recover_pending(queue) && !link_wait(device))
            return -ENOTCONN;
        err = 0;
        if (!link_up(device)) {
            wire_dismantle(queue); /* nothing is in flight */
            return 0;
        }
        if (queue->wire == WIRE_SHADOW)
            err = queue_unshadow(queue, svq_deadline(drain_timeout), how);
        else if (queue->wire == WIRE_DIRECT)
            err = wire_halt(queue, svq_deadline(drain_timeout));
        link_check(device);
    } while (err && !link_up(device) && !device->s.over && svq_now() < limit);
    return err;
}

void queue_stop(struct svq_queue *queue)
{
    if (queue->relay)
        wire_dismantle(queue);
    queue->wire = WIRE_NONE;
    queue->handed = false;
    queue->owing = false;
    queue->skew = 0;
    queue->stranded = false;
    queue->started = false;
    queue->has_kick = false;
    queue->fault = NULL;
    if (!shadow_device_started(queue->device))
        queue->device->s.order = ORDER_NONE;
}

void queue_abandon(struct svq_queue *queue)
{
    bool owing = queue->owing || (queue->wire == WIRE_DIRECT && queue->handed);
    uint16_t skew = queue->skew;

    queue_stop(queue);
    queue->owing = owing;
    queue->skew = skew;
}

void queue_end(struct svq_queue *queue)
{
    queue_stop(queue);
    forget_fd(&queue->kick);
    forget_fd(&queue->call);
    forget_fd(&queue->err);
    forget_fd(&queue->backend_kick);
    forget_fd(&queue->backend_call);
    svq_region_file_unref(queue->rings); /* left by a relay that could not be made */
    queue->device->s.queues[queue->index] = NULL;
    free(queue);
}

/* ---- Size, place, index
 * --------------------------------------------------------------------------- */

int queue_set_num(struct svq_device *device, struct svq_vu_message *msg,
                  struct svq_vu_message *reply)
{
    struct svq_queue *queue = queue_get(device, msg->payload.state.index);
    unsigned num = msg->payload.state.num;

    (void)reply;
    if (!queue || !svq_vring_num_valid(device_guest_format(device), num))
        return -EINVAL;
    if (queue->relay)
        return -EBUSY;
    queue->num = num;
    queue->absorbed |= !direct(queue);
    if (!direct(queue))
        return 0;
    return told(queue, backend_of(queue)->ops->set_vring_num(backend_of(queue), queue->index, num));
}

/* The same place, possibly with another opinion about the log? */
static bool same_place(const struct svq_vu_vring_addr *a, const struct svq_vu_vring_addr *b)
{
    return a->desc == b->desc && a->avail == b->avail && a->used == b->used;
}

int queue_set_addr(struct svq_device *device, struct svq_vu_message *msg,
                   struct svq_vu_message *reply)
{
    struct svq_vu_vring_addr addr = msg->payload.addr;
    struct svq_queue *queue = queue_get(device, addr.index);

    (void)reply;
    if (!queue || addr.flags & ~SVQ_VU_VRING_F_LOG ||
        !aligned(device_guest_format(device), addr.desc, addr.avail, addr.used))
        return -EINVAL;
    if (queue->relay && !same_place(&queue->addr, &addr))
        return -EBUSY;
    queue->addr = addr;
    queue->has_addr = true;
    if (queue->relay)
        wire_set_log(queue);
    queue->absorbed |= !direct(queue);
    if (!direct(queue))
        return 0;
    if (!(device->s.logging && device->s.log_backend))
        addr.flags &= ~SVQ_VU_VRING_F_LOG;
    return told(queue, backend_of(queue)->ops->set_vring_addr(backend_of(queue), &addr));
}

int queue_set_base(struct svq_device *device, struct svq_vu_message *msg,
                   struct svq_vu_message *reply)
{
    struct svq_queue *queue = queue_get(device, msg->payload.state.index);

    (void)reply;
    /* Whether a packed ring's base lies inside of it is known when the ring starts. */
    if (!queue ||
        (device_guest_format(device) == SVQ_RING_SPLIT && msg->payload.state.num > UINT16_MAX))
        return -EINVAL;
    if (queue->relay)
        return -EBUSY;
    queue->base = msg->payload.state.num;
    queue->has_base = true;
    queue->owing = false; /* after status 0: it starts anew */
    queue->absorbed |= !direct(queue);
    if (!direct(queue))
        return 0;
    return told(queue, backend_of(queue)->ops->set_vring_base(backend_of(queue), queue->index,
                                                              queue->base));
}

/*
 * The ring stops although its back-end is away. The front-end has the index from which on nothing
 * is complete, and the in-flight region if it asked for one.
 */
static void leave_in_flight(struct svq_queue *queue)
{
    if (recover_pending(queue))
        device_error(queue->device,
                     "queue %u stopped while the back-end is away: what was in flight is left to "
                     "the ring's next device",
                     queue->index);
    wire_dismantle(queue);
}

/* GET_VRING_BASE stops a ring: nothing of it is in flight or unlogged when the answer goes out. */
int queue_get_base(struct svq_device *device, struct svq_vu_message *msg,
                   struct svq_vu_message *reply)
{
    struct svq_queue *queue = queue_get(device, msg->payload.state.index);
    int err = 0;

    reply->payload.state = msg->payload.state;
    reply->header.size = sizeof(reply->payload.state);
    if (!queue) {
        reply->payload.state.num = 0;
        return -EINVAL;
    }
    if (queue->wire != WIRE_NONE || recover_pending(queue)) {
        bool was_direct = queue->wire == WIRE_DIRECT;

        err = queue_rest(queue, "stopped");
        if (was_direct)
            dirty_ring_stopped(device);
        /* The front-end goes on from here as it would with the back-end alone. */
        queue->absorbed &= !was_direct || !link_up(device);
        if (err == -ENOTCONN && !device->s.over) {
            leave_in_flight(queue);
            err = 0;
        }
    } else if (!queue->absorbed && !device->s.bound && link_up(device)) {
        err =
            svq_backend_get_vring_base(backend_of(queue), queue->index, queue->call, &queue->base);
        queue->has_base |= !err;
        device_backend_did(device, err);
    }
    queue_stop(queue);
    reply->payload.state.num = queue->base;
    return err;
}

/* ---- Notifications -----------------------------------------------------------------------------
 */

/* The queue a vring fd message names, and the fd: -1 when it says that there is none. */
static struct svq_queue *take_vring_fd(struct svq_device *device, struct svq_vu_message *msg,
                                       int *fd)
{
    struct svq_queue *queue = queue_get(device, msg->payload.u64 & SVQ_VU_VRING_IDX_MASK);

    *fd = msg->payload.u64 & SVQ_VU_VRING_NOFD ? -1 : svq_message_take_fd(msg, 0);
    if (!queue && *fd >= 0)
        close(*fd);
    return queue;
}

static int tell_fd(struct svq_queue *queue, uint32_t request, int fd)
{
    return told(queue,
                backend_of(queue)->ops->set_vring_fd(backend_of(queue), request, queue->index, fd));
}

/*
 * Another kick fd for a ring that runs. Back-ends differ in what they make of a second
 * SET_VRING_KICK; all of them understand a stop and a start.
 */
static int rewire(struct svq_queue *queue)
{
    int err = wire_halt(queue, svq_deadline(backend_of(queue)->drain_timeout));

    return err && err != -ETIMEDOUT ? device_told(queue->device, err) : connect_ring(queue);
}

/* Features may have come after a ring's settings: do these make a ring of the guest's format? */
static bool startable(const struct svq_queue *queue)
{
    enum svq_ring_format format = device_guest_format(queue->device);

    if (!queue->has_addr || !svq_vring_num_valid(format, queue->num) ||
        !aligned(format, queue->addr.desc, queue->addr.avail, queue->addr.used))
        return false;
    return !queue->has_base || svq_vring_base_valid(format, queue->num, queue->base);
}

/* Does the in-flight region know better where the ring starts than what the back-end was told? */
static bool starts_elsewhere(const struct svq_queue *queue)
{
    struct svq_vring guest;
    uint32_t base;

    return queue_guest_ring(queue, queue->device->s.map, &guest) &&
           inflight_base(queue, &guest, &base) && base != queue->base;
}

int queue_set_kick(struct svq_device *device, struct svq_vu_message *msg,
                   struct svq_vu_message *reply)
{
    struct svq_queue *queue;
    int fd, old, err = 0;

    (void)reply;
    queue = take_vring_fd(device, msg, &fd);
    if (!queue)
        return -EINVAL;
    if (!startable(queue)) {
        if (fd >= 0)
            close(fd);
        return -EINVAL;
    }
    old = queue->kick;
    queue->kick = fd;
    queue->has_kick = true;
    if (queue->lane)
        err = svq_lane_set_guest_kick(queue->lane, fd);
    if (old >= 0)
        close(old);
    if (queue->started && queue->wire == WIRE_SHADOW)
        return err;
    if (!queue->started) {
        queue->started = true;
        if (inflight_needs_relay(queue))
            device->s.order = ORDER_SHADOW;
        /* The first ring to start decides the device's mode. */
        err = shadow_settle(device, "policy", &(const char *){NULL});
        if (err && !device->s.log_gap && link_up(device))
            return err;
    }
    if (queue->wire == WIRE_DIRECT)
        return rewire(queue);
    if (direct(queue) && !queue->absorbed && !starts_elsewhere(queue)) {
        err = device_told(device, prepare_region(queue));
        if (err || !link_up(device) || queue->wire != WIRE_NONE)
            return err;
        queue->wire = WIRE_DIRECT;
        queue->handed = true;
        wire_note_start(queue);
        return tell_fd(queue, SVQ_VU_SET_VRING_KICK, fd);
    }
    return queue_start(queue);
}

int queue_set_call(struct svq_device *device, struct svq_vu_message *msg,
                   struct svq_vu_message *reply)
{
    struct svq_queue *queue;
    int fd, old;

    (void)reply;
    queue = take_vring_fd(device, msg, &fd);
    if (!queue)
        return -EINVAL;
    old = queue->call;
    queue->call = fd;
    if (queue->lane) {
        svq_lane_set_guest_call(queue->lane, fd);
        /* A call may have gone to the old one, or to nobody. */
        wire_call_guest(queue);
    }
    if (old >= 0)
        close(old);
    queue->absorbed |= !direct(queue);
    return direct(queue) ? tell_fd(queue, SVQ_VU_SET_VRING_CALL, fd) : 0;
}

int queue_set_err(struct svq_device *device, struct svq_vu_message *msg,
                  struct svq_vu_message *reply)
{
    struct svq_queue *queue;
    int fd;

    (void)reply;
    queue = take_vring_fd(device, msg, &fd);
    if (!queue)
        return -EINVAL;
    forget_fd(&queue->err);
    queue->err = fd;
    queue->absorbed |= !direct(queue);
    return direct(queue) ? tell_fd(queue, SVQ_VU_SET_VRING_ERR, fd) : 0;
}

/* ---- State
 * --------------------------------------------------------------------------------------- */

/*
 * Disabling a shadowed ring drains it before the ack: Cloud Hypervisor pauses a VM this way and
 * expects nothing in flight afterwards. Without a back-end nothing moves either.
 */
static int park(struct svq_queue *queue)
{
    int err = queue_rest(queue, "disabled");

    return queue->device->s.over ? err : 0;
}

int queue_set_enable(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    struct svq_queue *queue = queue_get(device, msg->payload.state.index);
    bool enable = msg->payload.state.num;
    int err = 0;

    (void)reply;
    if (!queue || msg->payload.state.num > 1)
        return -EINVAL;
    /* Until it is acked the ring is enabled: a back-end that comes back for it must run it. */
    if (!enable && (queue->wire == WIRE_SHADOW || recover_pending(queue)))
        err = park(queue);
    if (err)
        return err;
    queue->enabled = enable;
    /* Wiring a shadow ring, or a direct one from scratch, enables it as well. */
    if (enable && queue->wire == WIRE_NONE && queue_runs(queue))
        return queue_start(queue);
    if (!link_up(device) || !(device->link.backend->features & SVQ_BIT(SVQ_F_PROTOCOL_FEATURES)))
        return 0;
    err = told(queue,
               backend_of(queue)->ops->set_vring_enable(backend_of(queue), queue->index, enable));
    if (!enable)
        dirty_ring_stopped(device);
    return err;
}

int queue_set_endian(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    struct svq_queue *queue = queue_get(device, msg->payload.state.index);

    if (!queue || msg->payload.state.num > 1)
        return -EINVAL;
    if (msg->payload.state.num && device->s.shadow)
        return -EOPNOTSUPP;
    queue->big_endian = msg->payload.state.num;
    return device_told(device,
                       device->link.backend->ops->forward(device->link.backend, msg, reply));
}
