/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One front-end's visit. A request is checked against the message table, handled to its end
 * (whatever the back-end has to be told included), and answered before the next one is read.
 *
 * Threat model: the front-end may send anything. What breaks framing or a message's syntax ends its
 * session, since nothing after it can be trusted to be a message; a well-formed request that makes
 * no sense is refused and changes nothing.
 */
#include "device/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static handler_fn *const handlers[SVQ_VU_REQUEST_MAX] = {
    [SVQ_VU_GET_FEATURES] = setup_get_features,
    [SVQ_VU_SET_FEATURES] = setup_set_features,
    [SVQ_VU_SET_OWNER] = setup_set_owner,
    [SVQ_VU_RESET_OWNER] = setup_reset,
    [SVQ_VU_SET_MEM_TABLE] = memory_set_table,
    [SVQ_VU_SET_LOG_BASE] = dirty_set_log_base,
    [SVQ_VU_SET_LOG_FD] = dirty_set_log_fd,
    [SVQ_VU_SET_VRING_NUM] = queue_set_num,
    [SVQ_VU_SET_VRING_ADDR] = queue_set_addr,
    [SVQ_VU_SET_VRING_BASE] = queue_set_base,
    [SVQ_VU_GET_VRING_BASE] = queue_get_base,
    [SVQ_VU_SET_VRING_KICK] = queue_set_kick,
    [SVQ_VU_SET_VRING_CALL] = queue_set_call,
    [SVQ_VU_SET_VRING_ERR] = queue_set_err,
    [SVQ_VU_GET_PROTOCOL_FEATURES] = setup_get_protocol_features,
    [SVQ_VU_SET_PROTOCOL_FEATURES] = setup_set_protocol_features,
    [SVQ_VU_GET_QUEUE_NUM] = setup_get_queue_num,
    [SVQ_VU_SET_VRING_ENABLE] = queue_set_enable,
    [SVQ_VU_SET_BACKEND_REQ_FD] = channel_set,
    [SVQ_VU_SET_VRING_ENDIAN] = queue_set_endian,
    [SVQ_VU_GET_CONFIG] = setup_get_config,
    [SVQ_VU_SET_CONFIG] = setup_set_config,
    [SVQ_VU_GET_INFLIGHT_FD] = inflight_get_fd,
    [SVQ_VU_SET_INFLIGHT_FD] = inflight_set_fd,
    [SVQ_VU_RESET_DEVICE] = setup_reset,
    [SVQ_VU_GET_MAX_MEM_SLOTS] = memory_get_max_slots,
    [SVQ_VU_ADD_MEM_REG] = memory_add_region,
    [SVQ_VU_REM_MEM_REG] = memory_remove_region,
    [SVQ_VU_SET_STATUS] = setup_set_status,
    [SVQ_VU_GET_STATUS] = setup_get_status,
    [SVQ_VU_NET_SET_MTU] = setup_set_mtu,
};

/* ---- Answers ----------------------------------------------------------------------------------
 */

static void send_reply(struct svq_device *device, struct svq_vu_message *reply)
{
    int err;

    reply->header.flags = SVQ_VU_VERSION | SVQ_VU_REPLY;
    err = svq_conn_send(device->s.fd, reply, svq_deadline(device->message_timeout));
    if (err && !device->s.over)
        device->s.over = err == -ETIMEDOUT ? "front-end does not read its replies"
                                           : "front-end closed the connection";
}

static void send_ack(struct svq_device *device, uint32_t request, int result)
{
    struct svq_vu_message ack;

    svq_message_u64(&ack, request, result ? 1 : 0);
    send_reply(device, &ack);
}

static bool wants_ack(const struct svq_device *device, const struct svq_vu_message *msg)
{
    return msg->header.flags & SVQ_VU_NEED_REPLY &&
           device->s.protocol_acked & SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK);
}

/* The answer to a typed request that we do not serve: as big as the front-end expects. */
static void refuse_typed(struct svq_vu_message *reply)
{
    switch (reply->header.request) {
    case SVQ_VU_GET_INFLIGHT_FD:
        /* mmap_size 0 and no fd: there is no region. */
        reply->payload.inflight = (struct svq_vu_inflight){0};
        reply->header.size = sizeof(reply->payload.inflight);
        break;
    case SVQ_VU_SET_DEVICE_STATE_FD:
    case SVQ_VU_CHECK_DEVICE_STATE:
        /* Any error code in the low byte; bit 8: no fd comes with it. */
        reply->payload.u64 = SVQ_VU_VRING_NOFD | 1;
        reply->header.size = sizeof(reply->payload.u64);
        break;
    default:
        reply->payload.u64 = 0;
        reply->header.size = sizeof(reply->payload.u64);
        break;
    }
}

/* ---- Requests ---------------------------------------------------------------------------------
 */

/*
 * Not a request of a feature that svqd does not offer, nor of one that the back-end was not acked:
 * rust-vmm back-ends close the connection over such a request. But the in-flight region is svqd's.
 */
static bool served(const struct svq_device *device, const struct svq_vu_rule *rule)
{
    if (rule->policy == SVQ_VU_POLICY_REFUSE)
        return false;
    if (rule->feature == SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD)
        return device->s.protocol_acked & SVQ_BIT(SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD);
    return rule->feature < 0 ||
           device->link.backend->protocol_acked & SVQ_BIT((unsigned)rule->feature);
}

static int handle(struct svq_device *device, const struct svq_vu_rule *rule,
                  struct svq_vu_message *msg, struct svq_vu_message *reply)
{
    uint32_t request = msg->header.request;
    int err;

    if (!served(device, rule)) {
        refuse_typed(reply);
        return -EOPNOTSUPP;
    }
    if (handlers[request])
        return handlers[request](device, msg, reply);
    err = device->link.backend->ops->forward(device->link.backend, msg, reply);
    err = device_backend_did(device, err);
    if (err)
        refuse_typed(reply); /* there is none yet, and one that may be needed */
    return err;
}

static void answer(struct svq_device *device, const struct svq_vu_rule *rule,
                   struct svq_vu_message *msg, struct svq_vu_message *reply, int result)
{
    bool typed = rule->reply == SVQ_VU_REPLY_TYPED ||
                 (rule->reply == SVQ_VU_REPLY_LOG_FD &&
                  device->s.protocol_acked & SVQ_BIT(SVQ_VU_PROTOCOL_F_LOG_SHMFD));

    if (result)
        svq_warning(device->id, "refused %s: %s", rule->name, strerror(-result));
    if (device->s.over)
        return; /* the front-end will see the connection close */
    if (typed)
        send_reply(device, reply);
    else if (wants_ack(device, msg))
        send_ack(device, msg->header.request, result);
}

static void dispatch(struct svq_device *device, struct svq_vu_message *msg)
{
    const struct svq_vu_rule *rule = svq_vu_rule(SVQ_VU_TO_BACKEND, msg->header.request);
    struct svq_vu_message reply;
    int err = svq_vu_check_header(&msg->header);

    svq_debug(device->id, "from front-end: %s (%u), %u bytes, %u fds, flags 0x%x",
              svq_vu_name(SVQ_VU_TO_BACKEND, msg->header.request), msg->header.request,
              msg->header.size, msg->fd_count, msg->header.flags);
    if (!err)
        err = svq_vu_check_request(SVQ_VU_TO_BACKEND, msg);
    if (err == -ENOSYS) {
        svq_warning(device->id, "ignored unknown request %u", msg->header.request);
        if (wants_ack(device, msg))
            send_ack(device, msg->header.request, err);
        return;
    }
    if (err) {
        device->s.over = "front-end broke the protocol";
        device_error(device, "front-end broke the protocol with %s: %u bytes, %u fds, flags 0x%x",
                     svq_vu_name(SVQ_VU_TO_BACKEND, msg->header.request), msg->header.size,
                     msg->fd_count, msg->header.flags);
        return;
    }
    svq_message_init(&reply, msg->header.request);
    err = handle(device, rule, msg, &reply);
    link_check(device);
    answer(device, rule, msg, &reply, err);
    svq_message_close_fds(&reply);
}

/* ---- The session ------------------------------------------------------------------------------
 */

static void receive(struct svq_device *device)
{
    struct svq_vu_message msg;
    int got = svq_conn_recv(device->s.fd, &msg, svq_deadline(device->message_timeout));

    if (got == 1) {
        dispatch(device, &msg);
        svq_message_close_fds(&msg);
    } else if (got == 0 || got == -ECONNRESET) {
        device->s.over = "front-end closed the connection";
    } else {
        device->s.over = "front-end broke the protocol";
        device_error(device, "front-end sent no whole message: %s", strerror(-got));
    }
}

/* The back-end has nothing to say unasked: it left, or it lost track. */
static void backend_spoke(struct svq_device *device)
{
    char byte;
    ssize_t got = recv(device->link.backend->ops->fd(device->link.backend), &byte, 1,
                       MSG_PEEK | MSG_DONTWAIT);

    if (got > 0)
        device_backend_did(device, -EPROTO);
    else
        link_lost(device, "back-end closed the connection");
}

const char *session_serve(struct svq_device *device)
{
    while (!device->s.over) {
        struct pollfd fds[] = {{.fd = device->s.fd, .events = POLLIN}, {.fd = -1}};
        int64_t deadline;
        int ready;

        device_run_commands(device);
        if (device->stopping)
            return "device was removed";
        if (device->s.over)
            break;
        fds[1] = link_poll(device, &deadline);
        ready = svq_fiber_poll(fds, 2, deadline);
        if (ready < 0 && ready != -ETIMEDOUT)
            return "out of resources";
        if (fds[0].revents)
            receive(device);
        else if (link_up(device) && fds[1].revents)
            backend_spoke(device);
        else if (link_due(device, &fds[1]))
            link_try(device);
        link_check(device);
    }
    return device->s.over;
}

void session_begin(struct svq_device *device, int fd)
{
    device->s = (struct session){.fd = fd, .log_fd = -1};
    svq_info(device->id, "front-end connected");
    device_event(device, SVQ_EVENT_FRONTEND_CONNECTED, NULL);
}

void session_end(struct svq_device *device)
{
    const char *why = device->s.over ? device->s.over : "back-end cannot be reached";

    /* First nobody moves descriptors any more, then the peers go, then memory. */
    link_leave(device, why);
    for_each_queue(device, i, queue)
        queue_end(queue);
    channel_end(device);
    close(device->s.fd);
    dirty_end(device);
    inflight_end(device);
    memory_end(device);
    svq_info(device->id, "front-end disconnected: %s", why);
    device_event(device, SVQ_EVENT_FRONTEND_DISCONNECTED, why);
    device->s = (struct session){.fd = -1, .log_fd = -1};
}
