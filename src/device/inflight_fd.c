/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * GET_INFLIGHT_FD and SET_INFLIGHT_FD: where the front-end's in-flight region comes from. What it
 * is good for, see inflight.c.
 */
#include "device/internal.h"
#include "mem/inflight_memory.h"

#include <fcntl.h>
#include <string.h>

/* Does any ring rest on the region that the front-end has given, or not given? */
static bool in_use(const struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->wire != WIRE_NONE || queue->relay || queue->stranded)
            return true;
    return false;
}

static void take_theirs(struct svq_device *device, struct inflight_memory *memory)
{
    struct inflight *in = &device->s.inflight;

    in->given = NULL;
    device->link.has_region = false;
    inflight_memory_free(in->theirs);
    in->theirs = memory;
    memset(in->ran, 0, sizeof(in->ran));
    svq_debug(device->id, "in-flight region of %u queues with %u entries", memory->what.num_queues,
              memory->what.queue_size);
}

int inflight_get_fd(struct svq_device *device, struct svq_vu_message *msg,
                    struct svq_vu_message *reply)
{
    const struct svq_vu_inflight *asked = &msg->payload.inflight;
    struct inflight_memory *memory;
    int err, fd;

    /* Whatever was sent, 24 bytes are expected; no size and no fd: there is no region. */
    reply->payload.inflight = (struct svq_vu_inflight){0};
    reply->header.size = sizeof(reply->payload.inflight);
    if (in_use(device))
        return -EBUSY;
    err = inflight_memory_new(device_guest_format(device), asked->num_queues, asked->queue_size,
                              &memory);
    if (err)
        return err;
    fd = fcntl(memory->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        err = -errno;
        inflight_memory_free(memory);
        return err;
    }
    reply->payload.inflight = memory->what;
    reply->fds[0] = fd;
    reply->fd_count = 1;
    /* It counts from now on: the specification has front-ends send it back after a crash only. */
    take_theirs(device, memory);
    return 0;
}

int inflight_set_fd(struct svq_device *device, struct svq_vu_message *msg,
                    struct svq_vu_message *reply)
{
    const struct svq_vu_inflight *what = &msg->payload.inflight;
    struct inflight_memory *memory;
    int err;

    (void)reply;
    if (inflight_memory_is(device->s.inflight.theirs, msg->fds[0], what))
        return 0;
    if (in_use(device))
        return -EBUSY;
    err = inflight_memory_map(msg->fds[0], what, device_guest_format(device), &memory);
    if (err) {
        svq_error(device->id,
                  "cannot use the in-flight region of %u queues with %u entries, %llu bytes at "
                  "%llu: %s",
                  what->num_queues, what->queue_size, (unsigned long long)what->mmap_size,
                  (unsigned long long)what->mmap_offset, strerror(-err));
        return err;
    }
    svq_message_take_fd(msg, 0);
    take_theirs(device, memory);
    return 0;
}
