/* SPDX-License-Identifier: BSD-3-Clause */
/* The devices' control messages: one thread, one epoll set, any number of devices. */
#include "device_wire.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/wire.h"

#define PROTOCOL (SVQ_BIT(SVQ_VU_PROTOCOL_F_MQ) | SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK))
#define FEATURES                                                                                \
    (SVQ_BIT(SVQ_F_VERSION_1) | SVQ_BIT(SVQ_F_PROTOCOL_FEATURES) | SVQ_BIT(SVQ_F_RING_PACKED) | \
     SVQ_BIT(SVQ_F_IN_ORDER) | SVQ_BIT(SVQ_F_EVENT_IDX))

struct device_host {
    pthread_t thread;
    int epoll;
    int stop;                   /* eventfd */
    struct device_end *devices; /* the thread does not look at this list */
};

/* ---- Messages -------------------------------------------------------------------------------- */

static int reply(struct device_end *end, struct svq_vu_message *msg, uint32_t size)
{
    struct svq_vu_message answer = *msg;

    answer.header.flags = SVQ_VU_VERSION | SVQ_VU_REPLY;
    answer.header.size = size;
    answer.fd_count = 0;
    return wire_send(end->sock, &answer);
}

static int reply_u64(struct device_end *end, struct svq_vu_message *msg, uint64_t value)
{
    msg->payload.u64 = value;
    return reply(end, msg, sizeof(value));
}

/* Where it stops is where it goes on. */
static void pause_queue(struct device_end *end, struct device_queue *queue)
{
    if (!queue->flow.running)
        return;
    device_queue_stop(end, queue);
    queue->base = vq_device_base(&queue->flow.vq);
}

/* A ring runs when it has been started and enabled; nobody waits for the first kick. */
static int settle(struct device_end *end, struct device_queue *queue)
{
    bool wanted = queue->started && queue->enabled;

    if (wanted == queue->flow.running)
        return 0;
    if (wanted)
        return device_queue_start(end, queue);
    pause_queue(end, queue);
    return 0;
}

static int get_base(struct device_end *end, struct device_queue *queue, struct svq_vu_message *msg)
{
    uint64_t start = bench_now_ns();

    queue->started = false;
    settle(end, queue);
    msg->payload.state.num = queue->base;
    atomic_fetch_add(&end->drain_ns, bench_now_ns() - start);
    return reply(end, msg, sizeof(msg->payload.state));
}

static int set_memory(struct device_end *end, const struct svq_vu_message *msg)
{
    int ret;

    for (unsigned i = 0; i < end->queue_count; i++)
        pause_queue(end, &end->queues[i]);
    ret = rd_memory_set(&end->memory, &msg->payload.table, msg->fds);
    for (unsigned i = 0; i < end->queue_count && !ret; i++)
        ret = settle(end, &end->queues[i]);
    return ret;
}

static int set_fd(struct device_end *end, struct device_queue *queue, struct svq_vu_message *msg)
{
    int fd = msg->payload.u64 & SVQ_VU_VRING_NOFD ? -1 : wire_take_fd(msg);

    switch (msg->header.request) {
    case SVQ_VU_SET_VRING_CALL:
        device_queue_set_call(end, queue, fd);
        return 0;
    case SVQ_VU_SET_VRING_KICK:
        pause_queue(end, queue);
        if (queue->kick >= 0)
            close(queue->kick);
        queue->kick = fd;
        queue->started = true;
        return settle(end, queue);
    default: /* we have no errors to report */
        if (fd >= 0)
            close(fd);
        return 0;
    }
}

static int handle_vring(struct device_end *end, struct svq_vu_message *msg)
{
    struct svq_vu_vring_state *state = &msg->payload.state;
    /* The index comes first in all of them; where a fd comes along it is eight bits. */
    unsigned index = state->index & SVQ_VU_VRING_IDX_MASK;
    struct device_queue *queue;

    if (index >= end->queue_count)
        return -EINVAL;
    queue = &end->queues[index];
    switch (msg->header.request) {
    case SVQ_VU_SET_VRING_NUM:
        queue->num = state->num;
        return 0;
    case SVQ_VU_SET_VRING_BASE:
        queue->base = state->num;
        return 0;
    case SVQ_VU_SET_VRING_ADDR:
        queue->addr = msg->payload.addr;
        return 0;
    case SVQ_VU_GET_VRING_BASE:
        return get_base(end, queue, msg);
    case SVQ_VU_SET_VRING_ENABLE:
        queue->enabled = state->num;
        return settle(end, queue);
    case SVQ_VU_SET_VRING_KICK:
    case SVQ_VU_SET_VRING_CALL:
    case SVQ_VU_SET_VRING_ERR:
        return set_fd(end, queue, msg);
    default:
        return -ENOSYS;
    }
}

static int handle(struct device_end *end, struct svq_vu_message *msg)
{
    switch (msg->header.request) {
    case SVQ_VU_GET_FEATURES:
        return reply_u64(end, msg, FEATURES);
    case SVQ_VU_SET_FEATURES:
        end->features = msg->payload.u64;
        return end->features & ~FEATURES ? -EINVAL : 0;
    case SVQ_VU_GET_PROTOCOL_FEATURES:
        return reply_u64(end, msg, PROTOCOL);
    case SVQ_VU_SET_PROTOCOL_FEATURES:
        end->protocol = msg->payload.u64;
        return 0;
    case SVQ_VU_GET_QUEUE_NUM:
        return reply_u64(end, msg, end->queue_count);
    case SVQ_VU_SET_OWNER:
        return 0;
    case SVQ_VU_SET_MEM_TABLE:
        return set_memory(end, msg);
    default:
        return handle_vring(end, msg);
    }
}

static int receive(struct device_end *end)
{
    struct svq_vu_message msg;
    const struct svq_vu_rule *rule;
    bool wants_ack;
    int ret = wire_receive(end->sock, &msg);
    uint64_t start = bench_now_ns();

    if (ret)
        return ret;
    rule = svq_vu_rule(SVQ_VU_TO_BACKEND, msg.header.request);
    wants_ack = (msg.header.flags & SVQ_VU_NEED_REPLY) &&
                (end->protocol & SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK)) &&
                !(rule && rule->reply == SVQ_VU_REPLY_TYPED);
    ret = svq_vu_check_header(&msg.header);
    if (!ret)
        ret = svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg);
    if (!ret)
        ret = handle(end, &msg);
    if (ret)
        fprintf(stderr, "svq-bench: device: %s: %s\n",
                svq_vu_name(SVQ_VU_TO_BACKEND, msg.header.request), strerror(-ret));
    if (wants_ack)
        ret = reply_u64(end, &msg, ret ? 1 : 0);
    wire_close_fds(&msg);
    atomic_fetch_add(&end->handled_ns, bench_now_ns() - start);
    return ret;
}

/* ---- Connections ----------------------------------------------------------------------------- */

void device_end_hang_up(struct device_end *end)
{
    for (unsigned i = 0; i < end->queue_count; i++)
        device_queue_forget(end, &end->queues[i]);
    rd_memory_clear(&end->memory);
    if (end->sock >= 0)
        close(end->sock);
    end->sock = -1;
    end->protocol = 0;
}

static void pick_up(struct device_host *host, struct device_end *end)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &end->on_sock};
    int sock = accept4(end->listener, NULL, NULL, SOCK_CLOEXEC);

    if (sock < 0)
        return;
    /* The one before has gone, even if we are yet to hear of it. */
    if (end->sock >= 0)
        device_end_hang_up(end);
    if (epoll_ctl(host->epoll, EPOLL_CTL_ADD, sock, &event)) {
        fprintf(stderr, "svq-bench: device: %s\n", strerror(errno));
        close(sock);
        return;
    }
    end->sock = sock;
}

static void serve(struct device_host *host, const struct device_watch *watch)
{
    struct device_end *end = watch->end;

    if (watch->listens)
        pick_up(host, end);
    else if (end->sock >= 0 && receive(end))
        device_end_hang_up(end);
}

static void *run(void *opaque)
{
    struct device_host *host = opaque;
    eventfd_t value;

    bench_go_first(); /* a back-end that polls has a processor of its own for messages */
    while (eventfd_read(host->stop, &value)) {
        struct epoll_event events[16];
        int count = epoll_wait(host->epoll, events, 16, -1);

        for (int i = 0; i < count; i++)
            if (events[i].data.ptr)
                serve(host, events[i].data.ptr);
    }
    return NULL;
}

int device_host_take(struct device_host *host, struct device_end *end)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &end->on_listener};

    if (epoll_ctl(host->epoll, EPOLL_CTL_ADD, end->listener, &event))
        return -errno;
    end->next = host->devices;
    host->devices = end;
    return 0;
}

int device_host_new(struct device_host **out)
{
    struct device_host *host = calloc(1, sizeof(*host));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}; /* the end */
    sigset_t all, old;
    int ret = 0;

    if (!host)
        return -ENOMEM;
    host->epoll = epoll_create1(EPOLL_CLOEXEC);
    host->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (host->epoll < 0 || host->stop < 0 ||
        epoll_ctl(host->epoll, EPOLL_CTL_ADD, host->stop, &event))
        ret = -errno;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (!ret)
        ret = -pthread_create(&host->thread, NULL, run, host);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret) {
        if (host->epoll >= 0)
            close(host->epoll);
        if (host->stop >= 0)
            close(host->stop);
        free(host);
        return ret;
    }
    *out = host;
    return 0;
}

void device_host_free(struct device_host *host)
{
    if (!host)
        return;
    eventfd_write(host->stop, 1);
    pthread_join(host->thread, NULL);
    while (host->devices) {
        struct device_end *end = host->devices;

        host->devices = end->next;
        device_end_free(end);
    }
    close(host->epoll);
    close(host->stop);
    free(host);
}
