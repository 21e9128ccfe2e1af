/* SPDX-License-Identifier: BSD-3-Clause */
#include "backend/talk.h"
#include "base/log.h"
#include "event/fiber.h"
#include "vhost/conn.h"

#include <string.h>

/* What a back-end takes for a message is taken to be in between. */
#define QUICK_NS (2 * SVQ_USEC)
#define SLOW_NS  (10 * SVQ_USEC)
/* The longest nap between looks at what it has answered. */
#define NAP_NS (100 * SVQ_USEC)

/* For lines about a failure: while it is being opened, a back-end may leave without ado. */
static enum svq_log_level level_of(const struct vhost_user *vu, int err)
{
    return vu->opening && vu_has_left(err) ? SVQ_LOG_DEBUG : SVQ_LOG_ERROR;
}

/* ---- Out ----------------------------------------------------------------------------------------
 */

/* @request: the first one that may not have gone out */
static int transmit(struct vhost_user *vu, struct svq_packet *packets, unsigned count,
                    uint32_t request)
{
    int err =
        svq_conn_send_packets(vu->fd, packets, count, svq_deadline(vu->backend.message_timeout));

    if (err == -ETIMEDOUT)
        svq_error(vu->backend.tag, "back-end does not read %s", vu_name(request));
    else if (err)
        svq_log_line(level_of(vu, err), vu->backend.tag, "cannot send %s to the back-end: %s",
                     vu_name(request), strerror(-err));
    return err;
}

int vu_send_gathered(struct vhost_user *vu)
{
    struct svq_packet packets[VU_MAX_GATHERED];
    unsigned count = vu->gathered;

    if (vu->fd < 0)
        return -ENOTCONN;
    if (!count)
        return 0;
    for (unsigned i = 0; i < count; i++) {
        const struct vu_letter *letter = &vu->letters[i];

        packets[i] = (struct svq_packet){
            .data = letter,
            .size = sizeof(letter->header) + letter->header.size,
            .fds = &letter->fd,
            .fd_count = letter->fd >= 0,
        };
    }
    vu->gathered = 0;
    return transmit(vu, packets, count, vu->letters[0].header.request);
}

static void gather(struct vhost_user *vu, const struct svq_vu_message *msg)
{
    struct vu_letter *letter = &vu->letters[vu->gathered++];

    letter->header = msg->header;
    memcpy(letter->payload, &msg->payload, msg->header.size);
    letter->fd = msg->fd_count ? msg->fds[0] : -1;
}

int vu_send(struct vhost_user *vu, const struct svq_vu_message *msg)
{
    bool later =
        vu->gathering && msg->header.size <= sizeof(vu->letters->payload) && msg->fd_count <= 1;
    struct svq_packet packet = svq_packet_of(msg);
    int err = 0;

    if (!later || vu->gathered == VU_MAX_GATHERED)
        err = vu_send_gathered(vu);
    if (!err && later)
        gather(vu, msg);
    else if (!err)
        err = transmit(vu, &packet, 1, msg->header.request);
    svq_debug(vu->backend.tag, "to back-end: %s, %u bytes, %u fds", vu_name(msg->header.request),
              msg->header.size, msg->fd_count);
    return err;
}

/* ---- In -----------------------------------------------------------------------------------------
 */

static int64_t patience(const struct vhost_user *vu, uint32_t request)
{
    int64_t timeout = vu->backend.message_timeout;

    return request == SVQ_VU_GET_VRING_BASE ? timeout + vu->backend.drain_timeout : timeout;
}

/* @got: what receiving returned. Return: 0 if it was something, or -errno. */
static int received(const struct vhost_user *vu, uint32_t request, ssize_t got)
{
    if (got == 0)
        got = -ECONNRESET;
    if (got == -ETIMEDOUT)
        svq_error(vu->backend.tag, "back-end has not answered %s for %.1f s; giving it up",
                  vu_name(request), (double)patience(vu, request) / SVQ_SEC);
    else if (got < 0)
        svq_log_line(level_of(vu, got), vu->backend.tag, "back-end left before it answered %s: %s",
                     vu_name(request), strerror(-got));
    return got < 0 ? got : 0;
}

static int check_answer(const struct vhost_user *vu, uint32_t request,
                        const struct svq_vu_header *header)
{
    if (header->request == request && header->flags & SVQ_VU_REPLY &&
        (header->flags & SVQ_VU_VERSION_MASK) == SVQ_VU_VERSION)
        return 0;
    svq_error(vu->backend.tag, "back-end answered %s with request %u, flags 0x%x", vu_name(request),
              header->request, header->flags);
    return -EPROTO;
}

int vu_recv(struct vhost_user *vu, uint32_t request)
{
    int err = vu_send_gathered(vu);

    if (err)
        return err;
    err =
        received(vu, request, svq_conn_recv(vu->fd, &vu->in, svq_deadline(patience(vu, request))));
    if (err)
        return err;
    err = check_answer(vu, request, &vu->in.header);
    if (err)
        svq_message_close_fds(&vu->in);
    return err;
}

static int wrong_size(const struct vhost_user *vu, uint32_t request, uint32_t size)
{
    svq_error(vu->backend.tag, "back-end answered %s with %u bytes", vu_name(request), size);
    return -EPROTO;
}

int vu_wrong_size(struct vhost_user *vu, uint32_t request)
{
    svq_message_close_fds(&vu->in);
    return wrong_size(vu, request, vu->in.header.size);
}

static unsigned whole_answers(const struct vhost_user *vu)
{
    return vu->have / sizeof(vu->answers[0]);
}

/*
 * To be woken by each of many answers costs more than the answers: the back-end spends its time on
 * waking us, and where it shares a processor with us, waits for us each time. So sleep for about as
 * long as it takes for all; the last one may wake us.
 */
static void nap(const struct vhost_user *vu)
{
    unsigned due = vu->pending - whole_answers(vu);
    int64_t ns = due * vu->pace;

    if (due > 1)
        svq_fiber_sleep(ns < NAP_NS ? ns : NAP_NS);
}

/* It has been waited for since then, when there were that many answers. */
static void take_pace(struct vhost_user *vu, int64_t since, unsigned before)
{
    unsigned more = whole_answers(vu) - before;
    int64_t pace = more ? (svq_now() - since) / more : SLOW_NS;

    vu->pace = pace < QUICK_NS ? QUICK_NS : pace > SLOW_NS ? SLOW_NS : pace;
}

/* Until that many bytes of answers are there. Whatever is due may come along. */
static int read_answers(struct vhost_user *vu, size_t wanted, uint32_t request)
{
    int64_t deadline;

    if (vu->have >= wanted)
        return 0;
    deadline = svq_deadline(patience(vu, request));
    while (vu->have < wanted) {
        size_t room = vu->pending * sizeof(vu->answers[0]) - vu->have;
        unsigned before = whole_answers(vu);
        int64_t since = svq_now();
        ssize_t got;
        int err;

        nap(vu);
        got = svq_conn_recv_plain(vu->fd, (char *)vu->answers + vu->have, room, deadline);
        err = received(vu, request, got);
        if (err)
            return err;
        vu->have += got;
        take_pace(vu, since, before);
    }
    return 0;
}

/* The next GET_VRING_BASE is answered. */
static int stopped(struct vhost_user *vu, const struct svq_vu_vring_state *state)
{
    struct svq_vring_stop *stop = vu->stop++;

    if (state->index != stop->index) {
        svq_error(vu->backend.tag, "back-end answered GET_VRING_BASE of queue %u for queue %u",
                  stop->index, state->index);
        return -EPROTO;
    }
    stop->base = state->num;
    stop->answered = true;
    return 0;
}

/* Return: 0, 1 for a refusal, or -errno. */
static int take_answer(struct vhost_user *vu, unsigned i)
{
    const struct vu_answer *answer = &vu->answers[i];
    size_t before = i * sizeof(*answer);
    uint32_t request = vu->requests[i];
    int err = read_answers(vu, before + sizeof(answer->header), request);

    if (!err)
        err = check_answer(vu, request, &answer->header);
    if (!err && answer->header.size != sizeof(*answer) - sizeof(answer->header))
        err = wrong_size(vu, request, answer->header.size);
    if (!err)
        err = read_answers(vu, before + sizeof(*answer), request);
    if (err)
        return err;
    if (request == SVQ_VU_GET_VRING_BASE)
        return stopped(vu, &answer->state);
    if (!answer->u64)
        return 0;
    svq_warning(vu->backend.tag, "back-end refused %s", vu_name(request));
    return 1;
}

int vu_take_acks(struct vhost_user *vu)
{
    int result = 0, err;

    err = vu_send_gathered(vu);
    if (err)
        return err;
    for (unsigned i = 0; i < vu->pending; i++) {
        err = take_answer(vu, i);
        if (err < 0)
            return err;
        if (err)
            result = -EREMOTEIO;
    }
    vu->pending = 0;
    vu->have = 0;
    return result;
}

/* ---- Both ---------------------------------------------------------------------------------------
 */

void vu_expect_ack(struct vhost_user *vu, struct svq_vu_message *msg)
{
    if (vu->backend.protocol_acked & SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK)) {
        msg->header.flags |= SVQ_VU_NEED_REPLY;
        vu->requests[vu->pending++] = msg->header.request;
    } else {
        vu->unsynced = true;
    }
}

void vu_expect_base(struct vhost_user *vu)
{
    vu->requests[vu->pending++] = SVQ_VU_GET_VRING_BASE;
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
