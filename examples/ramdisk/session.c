/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vhost-user protocol from a back-end's side. One thread does everything: requests are under
 * way between two messages only if they were told to take their time (work.h), and what must not
 * happen while they are (GET_VRING_BASE, SET_MEM_TABLE, ENABLE 0) completes them first.
 */
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/wire.h"

/*
 * Neither LOG_ALL here nor LOG_SHMFD below: this back-end does not log what it writes to memory, so
 * by itself it cannot be migrated. That is what svqd is for.
 */
static uint64_t our_features(const struct rd_session *session)
{
    return SVQ_BIT(SVQ_F_VERSION_1) | SVQ_BIT(SVQ_F_EVENT_IDX) | SVQ_BIT(SVQ_F_INDIRECT_DESC) |
           SVQ_BIT(SVQ_F_PROTOCOL_FEATURES) |
           (session->offer.packed ? SVQ_BIT(SVQ_F_RING_PACKED) : 0) | rd_disk_features();
}

static uint64_t our_protocol_features(const struct rd_session *session)
{
    return SVQ_BIT(SVQ_VU_PROTOCOL_F_MQ) | SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK) |
           SVQ_BIT(SVQ_VU_PROTOCOL_F_CONFIG) |
           (session->offer.inflight ? SVQ_BIT(SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD) : 0);
}

void rd_session_open(struct rd_session *session, struct rd_disk *disk, struct rd_offer offer,
                     struct rd_pace *pace, int sock, int epoll)
{
    memset(session, 0, sizeof(*session));
    session->disk = disk;
    session->offer = offer;
    session->pace = pace;
    session->sock = sock;
    session->epoll = epoll;
    for (unsigned i = 0; i < disk->queues; i++) {
        struct rd_queue *queue = &session->queues[i];

        queue->index = i;
        queue->kick = queue->call = queue->err = -1;
    }
}

static void replace_fd(int *fd, int new_fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = new_fd;
}

static int replace_kick(struct rd_session *session, struct rd_queue *queue, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = RD_KICK + queue->index};

    /* Closing would not take it out of the epoll: the front-end still holds the same eventfd. */
    if (queue->kick >= 0)
        epoll_ctl(session->epoll, EPOLL_CTL_DEL, queue->kick, NULL);
    replace_fd(&queue->kick, fd);
    return fd >= 0 && epoll_ctl(session->epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static void finish_queue(struct rd_session *session, struct rd_queue *queue)
{
    rd_work_finish(&session->work[queue->index], queue, session->disk);
}

static void stop_queue(struct rd_session *session, struct rd_queue *queue)
{
    queue->started = false;
    rd_track_close(&queue->track);
    replace_kick(session, queue, -1);
    replace_fd(&queue->call, -1);
}

void rd_session_close(struct rd_session *session)
{
    for (unsigned i = 0; i < session->disk->queues; i++) {
        rd_work_drop(&session->work[i]);
        stop_queue(session, &session->queues[i]);
        replace_fd(&session->queues[i].err, -1);
    }
    rd_region_close(&session->region);
    rd_memory_clear(&session->memory);
    close(session->sock);
    session->sock = -1;
}

/* ---- Queues ------------------------------------------------------------------------------- */

void rd_session_kicked(struct rd_session *session, unsigned index)
{
    struct rd_queue *queue = &session->queues[index];
    eventfd_t value;
    int ret;

    eventfd_read(queue->kick, &value);
    if (queue->started)
        return;
    ret = rd_track_open(&queue->track, &session->region, index, queue->num,
                        session->features & SVQ_BIT(SVQ_F_RING_PACKED));
    if (!ret)
        ret = rd_queue_start(queue, &session->memory, session->features);
    if (!ret)
        return;
    fprintf(stderr, "svq-ramdisk: queue %u was kicked, but %s: %s\n", index,
            ret == -EBADMSG ? "the in-flight region makes no sense" : "its ring does not fit",
            strerror(-ret));
    if (queue->err >= 0)
        eventfd_write(queue->err, 1);
}

bool rd_session_serve(struct rd_session *session)
{
    bool busy = false;

    for (unsigned i = 0; i < session->disk->queues; i++) {
        if (rd_queue_ready(&session->queues[i]))
            busy |=
                rd_work_serve(&session->work[i], &session->queues[i], session->disk, session->pace);
    }
    return busy;
}

bool rd_session_works(const struct rd_session *session)
{
    for (unsigned i = 0; i < session->disk->queues; i++) {
        if (session->work[i].count && rd_queue_ready(&session->queues[i]))
            return true;
    }
    return false;
}

bool rd_session_arm(struct rd_session *session)
{
    bool busy = false;

    for (unsigned i = 0; i < session->disk->queues; i++) {
        if (rd_queue_ready(&session->queues[i]))
            busy |= rd_queue_arm(&session->queues[i]);
    }
    return busy;
}

/* ---- Messages ----------------------------------------------------------------------------- */

static int reply(struct rd_session *session, struct svq_vu_message *msg, uint32_t size)
{
    struct svq_vu_message answer = {.header = msg->header, .payload = msg->payload};

    answer.header.flags = SVQ_VU_VERSION | SVQ_VU_REPLY;
    answer.header.size = size;
    return wire_send(session->sock, &answer);
}

static int reply_u64(struct rd_session *session, struct svq_vu_message *msg, uint64_t value)
{
    msg->payload.u64 = value;
    return reply(session, msg, sizeof(value));
}

static int set_features(struct rd_session *session, uint64_t features)
{
    if (features & ~our_features(session))
        return -EINVAL;
    session->features = features;
    /* Without protocol features there is no SET_VRING_ENABLE: rings are enabled by themselves. */
    if (!(features & SVQ_BIT(SVQ_F_PROTOCOL_FEATURES))) {
        for (unsigned i = 0; i < session->disk->queues; i++)
            session->queues[i].enabled = true;
    }
    return 0;
}

static int set_memory(struct rd_session *session, const struct svq_vu_message *msg)
{
    int ret;

    for (unsigned i = 0; i < session->disk->queues; i++)
        finish_queue(session, &session->queues[i]);
    ret = rd_memory_set(&session->memory, &msg->payload.table, msg->fds);
    for (unsigned i = 0; i < session->disk->queues; i++) {
        struct rd_queue *queue = &session->queues[i];

        if (queue->started && (ret || rd_queue_attach(queue, &session->memory)))
            queue->started = false;
    }
    return ret;
}

static int set_num(struct rd_queue *queue, unsigned num)
{
    if (queue->started)
        return -EBUSY;
    if (!num || num > 32768)
        return -EINVAL;
    queue->num = num;
    return 0;
}

static int get_base(struct rd_session *session, struct rd_queue *queue, struct svq_vu_message *msg)
{
    finish_queue(session, queue);
    msg->payload.state.num = queue->base = rd_queue_base(queue);
    stop_queue(session, queue);
    return reply(session, msg, sizeof(msg->payload.state));
}

/* The specification's message has 20 bytes, everybody sends C's 24; the answer is like the
 * question. */
static int get_inflight(struct rd_session *session, struct svq_vu_message *msg)
{
    struct svq_vu_message answer = *msg;
    struct svq_vu_inflight *what = &answer.payload.inflight;
    int fd = rd_region_create(what, session->features & SVQ_BIT(SVQ_F_RING_PACKED));
    int ret;

    if (fd < 0)
        return fd;
    answer.header.flags = SVQ_VU_VERSION | SVQ_VU_REPLY;
    answer.fds[0] = fd;
    answer.fd_count = 1;
    ret = wire_send(session->sock, &answer);
    close(fd);
    return ret;
}

static int set_inflight(struct rd_session *session, const struct svq_vu_message *msg)
{
    for (unsigned i = 0; i < session->disk->queues; i++) {
        if (session->queues[i].started)
            return -EBUSY;
    }
    return rd_region_open(&session->region, &msg->payload.inflight, msg->fds[0]);
}

static int set_fd(struct rd_session *session, struct rd_queue *queue, struct svq_vu_message *msg)
{
    int fd = msg->payload.u64 & SVQ_VU_VRING_NOFD ? -1 : wire_take_fd(msg);

    switch (msg->header.request) {
    case SVQ_VU_SET_VRING_CALL:
        replace_fd(&queue->call, fd);
        /* See rd_queue_start(): it may come later than the first kick. */
        if (queue->started && queue->track.part && fd >= 0)
            eventfd_write(fd, 1);
        return 0;
    case SVQ_VU_SET_VRING_ERR:
        replace_fd(&queue->err, fd);
        return 0;
    default:
        /* Without an eventfd we would have to poll the ring for ever. */
        return fd < 0 ? -ENOTSUP : replace_kick(session, queue, fd);
    }
}

static int get_config(struct rd_session *session, struct svq_vu_message *msg)
{
    struct svq_vu_config *config = &msg->payload.config;
    uint8_t all[SVQ_VU_MAX_CONFIG] = {0};

    if (config->size > sizeof(all) || config->offset > sizeof(all) - config->size)
        return -EINVAL;
    rd_disk_config(session->disk, all);
    memcpy(config->data, all + config->offset, config->size);
    return reply(session, msg, SVQ_VU_CONFIG_HEADER + config->size);
}

/* The queue that a message is about. */
static struct rd_queue *queue_of(struct rd_session *session, const struct svq_vu_message *msg)
{
    uint64_t index;

    switch (msg->header.request) {
    case SVQ_VU_SET_VRING_KICK:
    case SVQ_VU_SET_VRING_CALL:
    case SVQ_VU_SET_VRING_ERR:
        index = msg->payload.u64 & SVQ_VU_VRING_IDX_MASK;
        break;
    default:
        /* The index comes first in all of the others. */
        index = msg->payload.state.index;
    }
    return index < session->disk->queues ? &session->queues[index] : NULL;
}

/* Messages about a queue. */
static int handle_vring(struct rd_session *session, struct svq_vu_message *msg)
{
    struct rd_queue *queue = queue_of(session, msg);

    if (!queue)
        return -EINVAL;
    switch (msg->header.request) {
    case SVQ_VU_SET_VRING_NUM:
        return set_num(queue, msg->payload.state.num);
    case SVQ_VU_SET_VRING_ADDR:
        queue->addr = msg->payload.addr;
        return queue->started ? rd_queue_attach(queue, &session->memory) : 0;
    case SVQ_VU_SET_VRING_BASE:
        if (queue->started)
            return -EBUSY;
        queue->base = msg->payload.state.num;
        return 0;
    case SVQ_VU_GET_VRING_BASE:
        return get_base(session, queue, msg);
    case SVQ_VU_SET_VRING_ENABLE:
        if (!msg->payload.state.num)
            finish_queue(session, queue);
        queue->enabled = msg->payload.state.num;
        return 0;
    case SVQ_VU_SET_VRING_KICK:
    case SVQ_VU_SET_VRING_CALL:
    case SVQ_VU_SET_VRING_ERR:
        return set_fd(session, queue, msg);
    default:
        return -ENOSYS;
    }
}

static int handle(struct rd_session *session, struct svq_vu_message *msg)
{
    switch (msg->header.request) {
    case SVQ_VU_GET_FEATURES:
        return reply_u64(session, msg, our_features(session));
    case SVQ_VU_SET_FEATURES:
        return set_features(session, msg->payload.u64);
    case SVQ_VU_GET_PROTOCOL_FEATURES:
        return reply_u64(session, msg, our_protocol_features(session));
    case SVQ_VU_SET_PROTOCOL_FEATURES:
        if (msg->payload.u64 & ~our_protocol_features(session))
            return -EINVAL;
        session->protocol = msg->payload.u64;
        return 0;
    case SVQ_VU_GET_QUEUE_NUM:
        return reply_u64(session, msg, session->disk->queues);
    case SVQ_VU_SET_OWNER:
        return 0;
    case SVQ_VU_SET_MEM_TABLE:
        return set_memory(session, msg);
    case SVQ_VU_GET_CONFIG:
        return get_config(session, msg);
    case SVQ_VU_GET_INFLIGHT_FD:
        return get_inflight(session, msg);
    case SVQ_VU_SET_INFLIGHT_FD:
        return set_inflight(session, msg);
    default:
        return handle_vring(session, msg);
    }
}

/* Does handle() send an answer of its own? */
static bool is_answered(uint32_t request)
{
    const struct svq_vu_rule *rule = svq_vu_rule(SVQ_VU_TO_BACKEND, request);

    return rule && rule->reply == SVQ_VU_REPLY_TYPED;
}

int rd_session_receive(struct rd_session *session)
{
    struct svq_vu_message msg;
    bool wants_ack;
    uint32_t request;
    int ret = wire_receive(session->sock, &msg);

    if (ret)
        return ret;
    request = msg.header.request;
    wants_ack = (msg.header.flags & SVQ_VU_NEED_REPLY) &&
                (session->protocol & SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK));
    ret = svq_vu_check_header(&msg.header);
    if (!ret)
        ret = svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg);
    if (!ret)
        ret = handle(session, &msg);
    if (ret)
        fprintf(stderr, "svq-ramdisk: %s (%u): %s\n", svq_vu_name(SVQ_VU_TO_BACKEND, request),
                request, strerror(-ret));
    /* A refusal that nobody would hear of ends the session: better than to go on differently. */
    if (wants_ack && !is_answered(request))
        ret = reply_u64(session, &msg, ret ? 1 : 0);
    wire_close_fds(&msg);
    return ret;
}
