/* SPDX-License-Identifier: BSD-3-Clause */
#include "session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/wire.h"

bool sim_session_has(const struct sim_session *session, enum svq_vu_protocol_feature bit)
{
    return session->protocol & SVQ_BIT(bit);
}

int sim_session_fail(struct sim_session *session, int err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(session->error, sizeof(session->error), format, args);
    va_end(args);
    return err;
}

int sim_session_send(struct sim_session *session, const struct svq_vu_message *msg)
{
    int ret = wire_send(session->sock, msg);

    if (ret)
        return sim_session_fail(session, ret, "sending %s: %s",
                                svq_vu_name(SVQ_VU_TO_BACKEND, msg->header.request),
                                strerror(-ret));
    return 0;
}

/* The answer to `msg`, into `msg`, and its first fd: its flags are exactly 0x5, as QEMU insists. */
static int receive(struct sim_session *session, struct svq_vu_message *msg, int *fd)
{
    uint32_t request = msg->header.request;
    const char *name = svq_vu_name(SVQ_VU_TO_BACKEND, request);
    int ret = wire_receive(session->sock, msg);

    if (ret == -EAGAIN)
        return sim_session_fail(session, -ETIMEDOUT, "no answer to %s", name);
    if (ret == -ENOTCONN)
        return sim_session_fail(session, ret, "connection closed instead of an answer to %s", name);
    if (ret)
        return sim_session_fail(session, ret, "answer to %s: %s", name, strerror(-ret));
    if (msg->header.request != request || msg->header.flags != (SVQ_VU_VERSION | SVQ_VU_REPLY))
        ret = sim_session_fail(session, -EPROTO, "answer to %s: is for message %u, flags 0x%x",
                               name, msg->header.request, msg->header.flags);
    if (!ret && fd)
        *fd = wire_take_fd(msg);
    wire_close_fds(msg);
    return ret;
}

int sim_session_receive(struct sim_session *session, struct svq_vu_message *msg)
{
    return receive(session, msg, NULL);
}

static int ask(struct sim_session *session, struct svq_vu_message *msg, uint32_t reply_size,
               int *fd)
{
    int ret = sim_session_send(session, msg);

    if (!ret)
        ret = receive(session, msg, fd);
    if (!ret && msg->header.size != reply_size)
        return sim_session_fail(session, -EPROTO, "answer to %s: %u bytes instead of %u",
                                svq_vu_name(SVQ_VU_TO_BACKEND, msg->header.request),
                                msg->header.size, reply_size);
    return ret;
}

int sim_session_ask(struct sim_session *session, struct svq_vu_message *msg, uint32_t reply_size)
{
    return ask(session, msg, reply_size, NULL);
}

int sim_session_ask_fd(struct sim_session *session, struct svq_vu_message *msg, uint32_t reply_size,
                       int *fd)
{
    uint32_t request = msg->header.request;
    int ret;

    *fd = -1;
    ret = ask(session, msg, reply_size, fd);
    if (!ret && *fd < 0)
        return sim_session_fail(session, -EPROTO, "answer to %s: it brought no fd",
                                svq_vu_name(SVQ_VU_TO_BACKEND, request));
    if (ret && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return ret;
}

int sim_session_tell(struct sim_session *session, struct svq_vu_message *msg, bool sure)
{
    bool acks = sim_session_has(session, SVQ_VU_PROTOCOL_F_REPLY_ACK);
    uint64_t ignored;

    if (acks && (sure || session->ack_all)) {
        int ret;

        msg->header.flags |= SVQ_VU_NEED_REPLY;
        ret = sim_session_ask(session, msg, sizeof(msg->payload.u64));
        if (ret || !msg->payload.u64)
            return ret;
        return sim_session_fail(session, -EIO, "%s was refused",
                                svq_vu_name(SVQ_VU_TO_BACKEND, msg->header.request));
    } else {
        int ret = sim_session_send(session, msg);

        return ret || !sure ? ret : sim_session_ask_u64(session, SVQ_VU_GET_FEATURES, &ignored);
    }
}

int sim_session_ask_u64(struct sim_session *session, enum svq_vu_request request, uint64_t *value)
{
    struct svq_vu_message msg = {.header = {.request = request, .flags = SVQ_VU_VERSION}};
    int ret = sim_session_ask(session, &msg, sizeof(msg.payload.u64));

    *value = msg.payload.u64;
    return ret;
}

int sim_session_tell_u64(struct sim_session *session, enum svq_vu_request request, uint64_t value,
                         bool sure)
{
    struct svq_vu_message msg = {.header = {.request = request, .flags = SVQ_VU_VERSION}};

    msg.header.size = sizeof(msg.payload.u64);
    msg.payload.u64 = value;
    return sim_session_tell(session, &msg, sure);
}

int sim_session_tell_vring(struct sim_session *session, enum svq_vu_request request, unsigned index,
                           unsigned num, bool sure)
{
    struct svq_vu_message msg = {.header = {.request = request, .flags = SVQ_VU_VERSION}};

    msg.header.size = sizeof(msg.payload.state);
    msg.payload.state = (struct svq_vu_vring_state){.index = index, .num = num};
    return sim_session_tell(session, &msg, sure);
}

int sim_session_tell_vring_fd(struct sim_session *session, enum svq_vu_request request,
                              unsigned index, int fd)
{
    struct svq_vu_message msg = {.header = {.request = request, .flags = SVQ_VU_VERSION}};

    msg.header.size = sizeof(msg.payload.u64);
    msg.payload.u64 = fd < 0 ? index | SVQ_VU_VRING_NOFD : index;
    msg.fds[0] = fd;
    msg.fd_count = fd >= 0;
    return sim_session_tell(session, &msg, false);
}
