/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The back-end's requests to the front-end (SET_BACKEND_REQ_FD). The back-end gets one end of a
 * socket pair of ours; a fiber carries requests to the front-end's socket and answers back, one at
 * a time. It runs beside the device's own fiber, because a back-end may ask for something before it
 * answers what the front-end asked.
 */
#include "device/internal.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct channel {
    struct svq_device *device;
    struct svq_fiber *fiber;
    int frontend;
    int backend; /* our end of the pair; -1: the back-end is gone */
    int next;    /* the same, to a new back-end; -1: none */
    bool stopping;
    bool ended;
    struct svq_fiber *waiter;
    struct svq_vu_message request;
    struct svq_vu_message answer;
};

static int64_t patience(const struct channel *channel)
{
    return svq_deadline(channel->device->message_timeout);
}

/* A request of a feature that we did not let the two agree on. */
static bool allowed(const struct channel *channel, const struct svq_vu_rule *rule)
{
    if (rule->policy == SVQ_VU_POLICY_REFUSE)
        return false;
    return rule->feature < 0 ||
           channel->device->s.protocol_acked & SVQ_BIT((unsigned)rule->feature);
}

static int refuse(struct channel *channel)
{
    if (!(channel->request.header.flags & SVQ_VU_NEED_REPLY))
        return 0;
    svq_message_u64(&channel->answer, channel->request.header.request, 1);
    channel->answer.header.flags |= SVQ_VU_REPLY;
    return svq_conn_send(channel->backend, &channel->answer, patience(channel));
}

static int carry(struct channel *channel, const struct svq_vu_rule *rule)
{
    int err = svq_conn_send(channel->frontend, &channel->request, patience(channel));
    int got;

    if (err)
        return err;
    if (rule->reply == SVQ_VU_REPLY_NONE && !(channel->request.header.flags & SVQ_VU_NEED_REPLY))
        return 0;
    got = svq_conn_recv(channel->frontend, &channel->answer, patience(channel));
    if (got != 1)
        return got ? got : -ECONNRESET;
    err = svq_conn_send(channel->backend, &channel->answer, patience(channel));
    svq_message_close_fds(&channel->answer);
    return err;
}

/* Return: 0 to go on. */
static int relay_one(struct channel *channel)
{
    struct svq_vu_message *msg = &channel->request;
    const char *tag = channel->device->id;
    const struct svq_vu_rule *rule;
    int got = svq_conn_recv(channel->backend, msg, patience(channel));
    int err;

    if (got != 1)
        return got ? got : -ECONNRESET;
    rule = svq_vu_rule(SVQ_VU_TO_FRONTEND, msg->header.request);
    err = svq_vu_check_header(&msg->header);
    if (!err && rule)
        err = svq_vu_check_request(SVQ_VU_TO_FRONTEND, msg);
    if (err) {
        svq_error(tag, "back-end's request %s is malformed",
                  svq_vu_name(SVQ_VU_TO_FRONTEND, msg->header.request));
    } else if (!rule || !allowed(channel, rule)) {
        svq_warning(tag, "refused the back-end's request %s (%u)",
                    svq_vu_name(SVQ_VU_TO_FRONTEND, msg->header.request), msg->header.request);
        err = refuse(channel);
    } else {
        svq_debug(tag, "back-end requests %s", rule->name);
        err = carry(channel, rule);
    }
    svq_message_close_fds(msg);
    return err;
}

static void forget(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/*
 * Without a back-end's end the device goes on: only the requests have nowhere to go. An exchange
 * with the front-end is finished before another back-end is listened to.
 */
static void channel_main(void *arg)
{
    struct channel *channel = arg;

    while (!channel->stopping) {
        struct pollfd fd = {.events = POLLIN};
        int ready;

        if (channel->next >= 0) {
            forget(&channel->backend);
            channel->backend = channel->next;
            channel->next = -1;
        }
        fd.fd = channel->backend;
        ready = svq_fiber_poll(&fd, 1, SVQ_FOREVER);
        if (ready < 0)
            break;
        if (ready && !channel->stopping && channel->next < 0 && relay_one(channel))
            forget(&channel->backend);
    }
    channel->ended = true;
    if (channel->waiter)
        svq_fiber_wake(channel->waiter);
}

void channel_end(struct svq_device *device)
{
    struct channel *channel = device->s.channel;

    if (!channel)
        return;
    channel->stopping = true;
    channel->waiter = svq_fiber_self();
    if (!channel->ended) {
        /* Both sockets: it may be waiting for either. */
        if (channel->backend >= 0)
            shutdown(channel->backend, SHUT_RDWR);
        shutdown(channel->frontend, SHUT_RDWR);
        svq_fiber_wake(channel->fiber);
    }
    while (!channel->ended)
        svq_fiber_poll(NULL, 0, SVQ_FOREVER);
    forget(&channel->backend);
    forget(&channel->next);
    close(channel->frontend);
    free(channel);
    device->s.channel = NULL;
}

/* A fiber for the front-end's socket, which it takes when it succeeds. */
static int channel_new(struct svq_device *device, int frontend)
{
    struct channel *channel = calloc(1, sizeof(*channel));
    int err;

    if (!channel)
        return -ENOMEM;
    channel->device = device;
    channel->frontend = frontend;
    channel->backend = channel->next = -1;
    err =
        svq_fiber_spawn(device->context->loop, device->id, channel_main, channel, &channel->fiber);
    if (err) {
        free(channel);
        return err;
    }
    device->s.channel = channel;
    return 0;
}

int channel_introduce(struct svq_device *device)
{
    struct channel *channel = device->s.channel;
    struct svq_vu_message out, reply;
    int pair[2], err;

    if (!channel ||
        !(device->link.backend->protocol_acked & SVQ_BIT(SVQ_VU_PROTOCOL_F_BACKEND_REQ)))
        return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    forget(&channel->next);
    channel->next = pair[0];
    if (!channel->ended)
        svq_fiber_wake(channel->fiber);
    svq_message_init(&out, SVQ_VU_SET_BACKEND_REQ_FD);
    out.fds[0] = pair[1];
    out.fd_count = 1;
    err = device->link.backend->ops->forward(device->link.backend, &out, &reply);
    close(pair[1]);
    return err;
}

int channel_set(struct svq_device *device, struct svq_vu_message *msg, struct svq_vu_message *reply)
{
    int err;

    (void)reply;
    channel_end(device);
    err = channel_new(device, msg->fds[0]);
    if (err)
        return err;
    svq_message_take_fd(msg, 0);
    return link_up(device) ? device_told(device, channel_introduce(device)) : 0;
}
