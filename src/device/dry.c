/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Running direct rings dry: they lose their kick, and what the back-end has taken completes.
 *
 * Back-ends built on libvhost-user answer GET_VRING_BASE first, forget the call fd, complete what
 * is in flight later, and give up the connection when they cannot call then. So nothing is to be in
 * flight. Other back-ends' rings are left alone: crosvm's devices and virtiofsd take no second kick
 * for a running ring.
 *
 * How far a ring has been used can be read off a split one only. No lazy back-end is known that has
 * packed rings.
 */
#include "device/internal.h"

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

/* Unless one can tell, a ring without its kick is dry when nothing has completed for so long, ...
 */
#define DRY_AFTER (20 * SVQ_MSEC)
/* ... and is stopped as it is after this: the back-end may keep some until it is told to stop. */
#define DRY_LIMIT (500 * SVQ_MSEC)

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

static void wait_dry(struct svq_queue *queue, const struct svq_vring *guest, int64_t limit)
{
    int64_t moved = svq_now();
    uint16_t last = ring_used_index(guest);

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
        halt_look_again(looks);
    }
}

static bool expected_lazy(const struct svq_backend *backend)
{
    return (backend->protocol_features & LIBVHOST_USER) == LIBVHOST_USER;
}

bool dry_needed(const struct svq_queue *queue)
{
    const struct svq_device *device = queue->device;
    struct svq_vring guest;

    return (device->link.lazy || expected_lazy(device->link.backend)) &&
           queue->wire == WIRE_DIRECT && !queue_is_packed(queue) &&
           queue_guest_ring(queue, device->s.map, &guest);
}

void dry_run(struct svq_device *device, struct svq_queue *const *queues, unsigned count,
             int64_t deadline)
{
    struct svq_backend *backend = device->link.backend;
    int silent = count ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1, err = 0, sent;
    int64_t limit = svq_deadline(DRY_LIMIT);
    struct svq_vring guest;

    if (silent < 0)
        return;
    backend->ops->gather(backend);
    for (unsigned i = 0; i < count && !err; i++)
        err = backend->ops->set_vring_fd(backend, SVQ_VU_SET_VRING_KICK, queues[i]->index, silent);
    /* Whatever was gathered has to go, or nothing does any more. */
    sent = backend->ops->flush(backend);
    close(silent);
    if (device_backend_did(device, err ? err : sent))
        return;
    for (unsigned i = 0; i < count; i++)
        if (queue_guest_ring(queues[i], device->s.map, &guest))
            wait_dry(queues[i], &guest, limit < deadline ? limit : deadline);
}
