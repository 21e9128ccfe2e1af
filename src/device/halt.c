/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stopping a ring: the back-end lets go of it, and everything that it took is complete.
 *
 * GET_VRING_BASE is meant to do that. Some back-ends (those built on libvhost-user) answer it
 * first, forget the call fd, complete what is in flight later, and give up the connection when they
 * cannot call then. So nothing should want to call: a relay asks the back-end not to; and from a
 * back-end that offers what libvhost-user offers, or that has been seen to be lazy, a direct ring's
 * kick is taken away first, so that it runs dry before it is stopped. Others keep theirs: crosvm's
 * devices and virtiofsd take no second kick for a running ring.
 *
 * How far a direct ring has been used can be read off a split one. It cannot off a packed one:
 * where a used element stands, nothing tells how many descriptors it stands for. There the answer
 * itself says it, in its upper half, and a back-end that has not completed everything is asked
 * again. The same is why a packed ring is not run dry; nor is any lazy back-end known that has
 * packed rings.
 */
#include "device/internal.h"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define P(name) SVQ_BIT(SVQ_VU_PROTOCOL_F_##name)

/*
 * libvhost-user offers all of these for every device with a configuration space, since QEMU 5.1.
 * The one that is built on it without (virtiofsd) has completed everything when it answers, and
 * aborts when a running ring is given a kick.
 */
#define LIBVHOST_USER                                                            \
    (P(MQ) | P(LOG_SHMFD) | P(REPLY_ACK) | P(BACKEND_REQ) | P(BACKEND_SEND_FD) | \
     P(HOST_NOTIFIER) | P(CONFIGURE_MEM_SLOTS) | P(CONFIG))

/* How often to look for the last completions before sleeping between looks. */
#define EAGER_LOOKS 100

/* A ring without its kick is dry, unless one can tell, when nothing has completed for so long, ...
 */
#define DRY_AFTER (20 * SVQ_MSEC)
/* ... and is stopped as it is after this: the back-end may keep some until it is told to stop. */
#define DRY_LIMIT (500 * SVQ_MSEC)

static void hold(struct svq_relay *relay, void *arg)
{
    svq_relay_hold(relay, *(bool *)arg);
}

void wire_hold(struct svq_queue *queue, bool on)
{
    if (!queue->lane)
        return;
    svq_lane_call(queue->lane, hold, &on);
    if (!on)
        svq_lane_turn(queue->lane);
}

struct drain {
    uint32_t base;
    int result;
};

static void ask_drained(struct svq_relay *relay, void *arg)
{
    struct drain *drain = arg;

    drain->result = svq_relay_drained(relay, drain->base);
}

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

/*
 * Has the back-end completed all it took, as far as one can see from here? 1 yes, 0 no, -EPROTO:
 * its index is impossible.
 */
static int drained(struct svq_queue *queue, uint32_t base)
{
    struct drain drain = {.base = base};
    struct svq_vring guest;

    if (queue->wire == WIRE_SHADOW) {
        if (!queue->lane)
            return 1;
        svq_lane_turn(queue->lane);
        if (queue->fault)
            return 1;
        svq_lane_call(queue->lane, ask_drained, &drain);
        return drain.result;
    }
    if (queue_is_packed(queue))
        return packed_drained(queue, base);
    if (!queue_guest_ring(queue, queue->device->s.map, &guest))
        return 1;
    return (int16_t)(ring_used_index(&guest) - (uint16_t)(base - queue->skew)) >= 0;
}

/* Where a direct ring's next device goes on, now that it is drained. */
static uint32_t next_index(struct svq_queue *queue, uint32_t base)
{
    struct svq_vring guest;

    if (queue_is_packed(queue) || !queue_guest_ring(queue, queue->device->s.map, &guest))
        return base;
    return later_of(base, ring_used_index(&guest) + queue->skew);
}

/* Let others run, and look again soon. */
static void pause_between_looks(unsigned looks)
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

/* GET_VRING_BASE: the ring stops, or, if it has, the back-end says how far it has come. */
static int ask_base(struct svq_queue *queue, uint32_t *base)
{
    struct svq_device *device = queue->device;
    int call = queue->wire == WIRE_SHADOW ? queue->backend_call : queue->call;
    int err =
        device->link.backend->ops->get_vring_base(device->link.backend, queue->index, call, base);

    if (!err && device_backend_format(device) == SVQ_RING_PACKED && *base >> 16)
        device->link.wide_bases = true;
    return device_backend_did(device, err);
}

static void note_lazy(struct svq_device *device)
{
    if (!device->link.lazy)
        svq_info(device->id, "back-end answers GET_VRING_BASE before it has completed everything; "
                             "its split rings are run dry first from now on");
    device->link.lazy = true;
}

/* @base: what the back-end answered; of a direct packed ring, what it answered last */
static int wait_drained(struct svq_queue *queue, uint32_t *base, int64_t deadline)
{
    for (unsigned looks = 0;; looks++) {
        int result = drained(queue, *base), err;

        if (result < 0)
            wire_report_fault(queue, "backend", "its next index lies outside of what it was given");
        if (result)
            return 0;
        if (left(queue->device))
            return -ENOTCONN;
        note_lazy(queue->device);
        if (svq_now() >= deadline)
            return -ETIMEDOUT;
        pause_between_looks(looks);
        if (queue->wire == WIRE_SHADOW || !queue_is_packed(queue))
            continue;
        err = ask_base(queue, base);
        if (err)
            return err;
    }
}

/*
 * A back-end that waits for kicks asks for one at the next index that it will take: what lies
 * before that is in flight. One that does not wait leaves its event index anywhere.
 */
enum flight { FLIGHT_NONE, FLIGHT_SOME, FLIGHT_UNKNOWN };

static enum flight in_flight(struct svq_queue *queue, const struct svq_vring *guest)
{
    size_t size = svq_vring_device_size(SVQ_RING_SPLIT, queue->num);
    const uint16_t *event = (uint16_t *)((char *)guest->device + size) - 1;
    uint16_t done = ring_used_index(guest) + queue->skew, taken, offered;

    if (!device_acked(queue->device, SVQ_F_EVENT_IDX))
        return FLIGHT_UNKNOWN;
    taken = __atomic_load_n(event, __ATOMIC_ACQUIRE) - done;
    offered = ring_avail_index(guest) - done;
    if (taken > offered)
        return FLIGHT_UNKNOWN;
    return taken ? FLIGHT_SOME : FLIGHT_NONE;
}

/* Wait until a direct ring without a kick has completed what the back-end took. */
static void wait_dry(struct svq_queue *queue, const struct svq_vring *guest, int64_t deadline)
{
    int64_t limit = svq_deadline(DRY_LIMIT), moved = svq_now();
    uint16_t last = ring_used_index(guest);

    if (limit > deadline)
        limit = deadline;
    for (unsigned looks = 0; svq_now() < limit; looks++) {
        enum flight flight = in_flight(queue, guest);
        uint16_t used = ring_used_index(guest);

        if (flight == FLIGHT_NONE)
            return;
        if (used != last || flight == FLIGHT_SOME)
            moved = svq_now();
        last = used;
        if (svq_now() - moved >= DRY_AFTER)
            return;
        pause_between_looks(looks);
    }
}

/* Seen to be, or to be expected. */
static bool is_lazy(const struct link *link)
{
    return link->lazy || (link->backend->protocol_features & LIBVHOST_USER) == LIBVHOST_USER;
}

static void run_dry(struct svq_queue *queue, int64_t deadline)
{
    struct svq_backend *backend = queue->device->link.backend;
    struct svq_vring guest;
    int silent, err;

    if (!is_lazy(&queue->device->link) || queue_is_packed(queue) ||
        !queue_guest_ring(queue, queue->device->s.map, &guest))
        return;
    silent = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (silent < 0)
        return;
    err = backend->ops->set_vring_fd(backend, SVQ_VU_SET_VRING_KICK, queue->index, silent);
    close(silent);
    if (!err)
        err = backend->ops->flush(backend);
    if (!device_backend_did(queue->device, err))
        wait_dry(queue, &guest, deadline);
}

static void ask_owes(struct svq_relay *relay, void *arg)
{
    *(bool *)arg = svq_relay_owes(relay);
}

/*
 * What a back-end was given again after another one's crash may have to be completed by it: it is
 * not stopped before it has had time for that.
 */
static void let_catch_up(struct svq_queue *queue, int64_t deadline)
{
    bool owes = true;

    for (unsigned looks = 0; queue->lane && !queue->fault && svq_now() < deadline; looks++) {
        svq_lane_turn(queue->lane);
        svq_lane_call(queue->lane, ask_owes, &owes);
        if (!owes || left(queue->device))
            return;
        pause_between_looks(looks);
    }
}

int wire_halt(struct svq_queue *queue, int64_t deadline)
{
    uint32_t base;
    int err;

    if (!queue->handed) {
        /* It never started: the back-end has taken nothing of it. */
        queue->wire = WIRE_NONE;
        queue->absorbed = true;
        return 0;
    }
    if (queue->wire == WIRE_SHADOW) {
        let_catch_up(queue, deadline);
        wire_hold(queue, true);
    } else {
        run_dry(queue, deadline);
    }
    err = ask_base(queue, &base);
    if (err) {
        wire_hold(queue, false);
        return err;
    }
    queue->handed = false;
    if (queue->wire == WIRE_SHADOW) {
        queue->halted = true;
        err = wait_drained(queue, &base, deadline);
        queue->halted_at = base;
        return err;
    }
    queue->owing = true;
    err = wait_drained(queue, &base, deadline);
    queue->owing = err;
    queue->base = next_index(queue, base);
    queue->has_base = true;
    queue->wire = WIRE_NONE;
    queue->absorbed = true;
    return err;
}
