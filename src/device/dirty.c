/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The dirty log. Either the back-end writes it (then its messages pass), or the shadow does: then
 * the back-end never hears of it, and the device is shadowed for as long as the front-end logs. A
 * shadow that is on for another reason logs as well, since it writes the guest's used rings.
 *
 * Front-ends read an old log as soon as SET_LOG_BASE for a new one is answered, so nothing may
 * write to it after that: every relay has taken the new one before the answer goes out.
 */
#include "device/internal.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

bool dirty_backend_logs(const struct svq_device *device)
{
    bool can = device->link.backend->features & SVQ_BIT(SVQ_F_LOG_ALL) &&
               svq_backend_has(device->link.backend, SVQ_VU_PROTOCOL_F_LOG_SHMFD);

    switch (device->dirty_log) {
    case SVQ_DIRTY_LOG_SHADOW:
        return false;
    case SVQ_DIRTY_LOG_BACKEND:
        return can;
    default:
        /* A shadow that is on anyway logs more cheaply than both together. */
        return can && device->policy != SVQ_SHADOW_ON && !device->s.bound;
    }
}

bool dirty_possible(const struct svq_device *device)
{
    if (dirty_backend_logs(device))
        return true;
    return device->dirty_log != SVQ_DIRTY_LOG_BACKEND && device->policy != SVQ_SHADOW_OFF;
}

/* The first guest-physical address that is nothing any more. */
static uint64_t top_of_memory(const struct svq_map *map)
{
    uint64_t top = 0;

    for (size_t i = 0; map && i < svq_map_count(map); i++) {
        const struct svq_region *r = svq_map_region(map, i);

        if (top < r->gpa + r->size)
            top = r->gpa + r->size;
    }
    return top;
}

struct svq_log *dirty_relay_log(const struct svq_device *device)
{
    if (device->s.logging)
        return device->s.log;
    /* More memory than it was made for may have come. */
    return device->s.trial_top == top_of_memory(device->s.map) ? device->s.trial_log : NULL;
}

static void tell_relays(struct svq_device *device)
{
    for_each_queue(device, i, queue)
        wire_set_log(queue);
}

/* Send what LOG_ALL changes for the back-end: features, and each ring's own flag. */
static int tell_backend(struct svq_device *device)
{
    struct svq_backend *backend = device->link.backend;
    int err = setup_send_features(device);

    if (!err)
        err = backend->ops->flush(backend);
    return device_told(device, err);
}

/* ---- The gap ------------------------------------------------------------------------------------
 */

/* Return: -ERANGE when the log does not cover guest memory. */
static int mark_all(struct svq_device *device)
{
    int err = 0;

    if (!device->s.log || !device->s.map)
        return 0;
    for (size_t i = 0; i < svq_map_count(device->s.map); i++) {
        const struct svq_region *r = svq_map_region(device->s.map, i);

        if (svq_log_mark(device->s.log, r->gpa, r->size) < 0)
            err = -ERANGE;
    }
    return err;
}

static int open_gap(struct svq_device *device)
{
    if (mark_all(device) < 0)
        return -ERANGE;
    device->s.log_gap = true;
    device_error(device, "not shadowed although the front-end logs: all guest memory counts as "
                         "dirty");
    return 0;
}

void dirty_ring_stopped(struct svq_device *device)
{
    if (device->s.log_gap && mark_all(device) < 0)
        device_error(device, "the dirty log does not cover guest memory");
}

/* The buffers are in the log before a request is used: no back-end could do it the other way. */
void dirty_ring_lost(const struct svq_queue *queue)
{
    const struct session *s = &queue->device->s;
    bool packed = queue_is_packed(queue);
    uint64_t uaddr = packed ? queue->addr.desc : queue->addr.used, gpa;
    size_t size = packed ? svq_vring_desc_size(SVQ_RING_PACKED, queue->num)
                         : svq_vring_device_size(SVQ_RING_SPLIT, queue->num);

    if (s->logging && s->log_backend && s->log && s->map &&
        svq_map_uaddr_to_gpa(s->map, uaddr, size, &gpa))
        svq_log_mark(s->log, gpa, size);
}

void dirty_close_gap(struct svq_device *device)
{
    dirty_ring_stopped(device);
    device->s.log_gap = false;
}

/* ---- Start and stop
 * ------------------------------------------------------------------------------ */

static int start_logging(struct svq_device *device)
{
    const char *cause;
    int err;

    /* QEMU names the log only later when it starts a device in mid-migration. */
    device->s.logging = true;
    device->s.log_backend = dirty_backend_logs(device);
    /* A shadow that is on already begins to log here; a new one logs from its first chain. */
    tell_relays(device);
    if (device->s.log_backend) {
        err = tell_backend(device);
    } else {
        err = shadow_settle(device, "migration", &cause);
        if (err && !device->s.over)
            err = open_gap(device);
    }
    if (err) {
        device->s.logging = false;
        tell_relays(device);
    }
    return err;
}

static int stop_logging(struct svq_device *device)
{
    const char *cause;

    device->s.logging = false;
    device->s.log_gap = false;
    tell_relays(device);
    if (device->s.log_backend)
        return tell_backend(device);
    /* A shadow that cannot be left is reported, but no reason to refuse the end of logging. */
    shadow_settle(device, "migration", &cause);
    return 0;
}

int dirty_set_logging(struct svq_device *device, bool logging)
{
    return logging ? start_logging(device) : stop_logging(device);
}

/* For the back-end that comes after this one. */
static int remember_log(struct svq_device *device, int fd, const struct svq_vu_log *place)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy < 0)
        return -errno;
    if (device->s.log_fd >= 0)
        close(device->s.log_fd);
    device->s.log_fd = copy;
    device->s.log_place = *place;
    return 0;
}

int dirty_set_log_base(struct svq_device *device, struct svq_vu_message *msg,
                       struct svq_vu_message *reply)
{
    struct svq_vu_log log = msg->payload.log;
    struct svq_log *mapped, *old = device->s.log;
    int err;

    /* The answer repeats the request: QEMU takes any size, Cloud Hypervisor this one only. */
    reply->payload.log = log;
    reply->header.size = sizeof(log);
    err = svq_log_new(msg->fds[0], log.size, log.offset, &mapped);
    if (err) {
        svq_error(device->id, "cannot map the dirty log of %llu bytes at %llu",
                  (unsigned long long)log.size, (unsigned long long)log.offset);
        reply->payload.log.size = 0;
        return err;
    }
    err = remember_log(device, msg->fds[0], &log);
    if (!err && dirty_backend_logs(device) && link_up(device)) {
        err = device->link.backend->ops->set_log(device->link.backend, msg->fds[0], log.size,
                                                 log.offset);
        err = device_told(device, err);
    }
    if (err) {
        svq_log_unref(mapped);
        reply->payload.log.size = 0;
        return err;
    }
    device->s.log = mapped;
    tell_relays(device);
    svq_log_unref(old);
    return 0;
}

/* An eventfd that says "the log was written". Front-ends poll the log; nobody waits for it. */
int dirty_set_log_fd(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    (void)device, (void)msg, (void)reply;
    return 0;
}

/* ---- For measurements ---------------------------------------------------------------------------
 */

static int make_trial_log(struct svq_device *device)
{
    uint64_t top = top_of_memory(device->s.map), size = top / (8 * SVQ_LOG_PAGE) + 1;
    int fd = memfd_create("svq-trial-log", MFD_CLOEXEC);
    int err = 0;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, size) < 0)
        err = -errno;
    if (!err)
        err = svq_log_new(fd, size, 0, &device->s.trial_log);
    close(fd);
    if (!err)
        device->s.trial_top = top;
    return err;
}

static void drop_trial_log(struct svq_device *device)
{
    struct svq_log *log = device->s.trial_log;

    device->s.trial_log = NULL;
    device->s.trial_top = 0;
    tell_relays(device);
    svq_log_unref(log);
}

int svq_device_log(struct svq_device *device, bool enable)
{
    int err;

    if (device->s.fd < 0 || !device->s.map)
        return -EAGAIN;
    drop_trial_log(device);
    err = enable ? make_trial_log(device) : 0;
    tell_relays(device);
    return err;
}

void dirty_end(struct svq_device *device)
{
    drop_trial_log(device);
    svq_log_unref(device->s.log);
    device->s.log = NULL;
    if (device->s.log_fd >= 0)
        close(device->s.log_fd);
    device->s.log_fd = -1;
}
