/* SPDX-License-Identifier: BSD-3-Clause */
#include "backend/talk.h"
#include "base/log.h"
#include "event/fiber.h"
#include "vhost/conn.h"

#include <string.h>

/* For lines about a failure: while it is being opened, a back-end may leave without ado. */
static enum svq_log_level level_of(const struct vhost_user *vu, int err)
{
    return vu->opening && vu_has_left(err) ? SVQ_LOG_DEBUG : SVQ_LOG_ERROR;
}

int vu_send(struct vhost_user *vu, const struct svq_vu_message *msg)
{
    int err = svq_conn_send(vu->fd, msg, svq_deadline(vu->backend.message_timeout));

    svq_debug(vu->backend.tag, "to back-end: %s, %u bytes, %u fds", vu_name(msg->header.request),
              msg->header.size, msg->fd_count);
    if (err == -ETIMEDOUT)
        svq_error(vu->backend.tag, "back-end does not read %s", vu_name(msg->header.request));
    else if (err)
        svq_log_line(level_of(vu, err), vu->backend.tag, "cannot send %s to the back-end: %s",
                     vu_name(msg->header.request), strerror(-err));
    return err;
}

int vu_recv(struct vhost_user *vu, uint32_t request)
{
    struct svq_vu_message *in = &vu->in;
    int64_t timeout = vu->backend.message_timeout;
    int got;

    if (request == SVQ_VU_GET_VRING_BASE)
        timeout += vu->backend.drain_timeout;
    got = svq_conn_recv(vu->fd, in, svq_deadline(timeout));
    if (got == 0)
        got = -ECONNRESET;
    if (got == -ETIMEDOUT)
        svq_error(vu->backend.tag, "back-end has not answered %s for %.1f s; giving it up",
                  vu_name(request), (double)timeout / SVQ_SEC);
    else if (got < 0)
        svq_log_line(level_of(vu, got), vu->backend.tag, "back-end left before it answered %s: %s",
                     vu_name(request), strerror(-got));
    if (got < 0)
        return got;
    if (in->header.request != request || !(in->header.flags & SVQ_VU_REPLY) ||
        (in->header.flags & SVQ_VU_VERSION_MASK) != SVQ_VU_VERSION) {
        svq_error(vu->backend.tag, "back-end answered %s with request %u, flags 0x%x",
                  vu_name(request), in->header.request, in->header.flags);
        svq_message_close_fds(in);
        return -EPROTO;
    }
    return 0;
}

int vu_wrong_size(struct vhost_user *vu, uint32_t request)
{
    svq_error(vu->backend.tag, "back-end answered %s with %u bytes", vu_name(request),
              vu->in.header.size);
    svq_message_close_fds(&vu->in);
    return -EPROTO;
}

int vu_take_acks(struct vhost_user *vu)
{
    int result = 0;

    if (vu->fd < 0)
        return -ENOTCONN;
    for (unsigned i = 0; i < vu->pending; i++) {
        int err = vu_recv(vu, vu->requests[i]);

        if (err)
            return err;
        if (vu->in.header.size != sizeof(uint64_t))
            return vu_wrong_size(vu, vu->requests[i]);
        svq_message_close_fds(&vu->in);
        if (!vu->in.payload.u64)
            continue;
        svq_warning(vu->backend.tag, "back-end refused %s", vu_name(vu->requests[i]));
        if (!result)
            result = -EREMOTEIO;
    }
    vu->pending = 0;
    return result;
}

void vu_expect_ack(struct vhost_user *vu, struct svq_vu_message *msg)
{
    if (vu->backend.protocol_acked & SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK)) {
        msg->header.flags |= SVQ_VU_NEED_REPLY;
        vu->requests[vu->pending++] = msg->header.request;
    } else {
        vu->unsynced = true;
    }
}

int vu_queue(struct vhost_user *vu, struct svq_vu_message *msg)
{
    int err;

    if (vu->fd < 0)
        return -ENOTCONN;
    if (vu->pending == VU_MAX_PENDING) {
        err = vu_take_acks(vu);
        if (err)
            return err;
    }
    vu_expect_ack(vu, msg);
    return vu_send(vu, msg);
}

int vu_ask(struct vhost_user *vu, struct svq_vu_message *msg)
{
    int err = vu_take_acks(vu);

    if (!err)
        err = vu_send(vu, msg);
    if (!err)
        err = vu_recv(vu, msg->header.request);
    if (!err)
        vu->unsynced = false;
    return err;
}

int vu_get_u64(struct vhost_user *vu, uint32_t request, uint64_t *value)
{
    int err;

    svq_message_init(&vu->out, request);
    err = vu_ask(vu, &vu->out);
    if (err)
        return err;
    if (vu->in.header.size != sizeof(uint64_t))
        return vu_wrong_size(vu, request);
    svq_message_close_fds(&vu->in);
    *value = vu->in.payload.u64;
    return 0;
}
