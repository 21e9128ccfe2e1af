/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost/conn.h"
#include "event/fiber.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Room for the fds of one message, aligned for its header. */
union control {
    struct cmsghdr header;
    char space[CMSG_SPACE(SVQ_VU_MAX_FDS * sizeof(int))];
};

void svq_message_close_fds(struct svq_vu_message *msg)
{
    for (unsigned i = 0; i < msg->fd_count; i++)
        if (msg->fds[i] >= 0)
            close(msg->fds[i]);
    msg->fd_count = 0;
}

int svq_message_take_fd(struct svq_vu_message *msg, unsigned i)
{
    int fd;

    if (i >= msg->fd_count)
        return -1;
    fd = msg->fds[i];
    msg->fds[i] = -1;
    return fd;
}

void svq_message_init(struct svq_vu_message *msg, uint32_t request)
{
    msg->header = (struct svq_vu_header){.request = request, .flags = SVQ_VU_VERSION};
    msg->fd_count = 0;
}

void svq_message_u64(struct svq_vu_message *msg, uint32_t request, uint64_t value)
{
    svq_message_init(msg, request);
    msg->header.size = sizeof(value);
    msg->payload.u64 = value;
}

static int wait_for(int fd, short events, int64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = events};
    int ready;

    /* A wake is meant for our caller's own loop, which looks for its work before it waits. */
    do {
        ready = svq_fiber_poll(&p, 1, deadline);
    } while (ready == 0);
    return ready < 0 ? ready : 0;
}

/* ---- Receiving
 * ----------------------------------------------------------------------------------- */

/* Collect the fds that came with a piece of the message. */
static int take_control(struct svq_vu_message *msg, struct msghdr *hdr)
{
    bool surplus = hdr->msg_flags & MSG_CTRUNC;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c; c = CMSG_NXTHDR(hdr, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (msg->fd_count < SVQ_VU_MAX_FDS) {
                msg->fds[msg->fd_count++] = fd;
            } else {
                close(fd);
                surplus = true;
            }
        }
    }
    return surplus ? -EPROTO : 0;
}

/* Return: bytes read, 0 at the end of the stream, -errno. */
static ssize_t recv_piece(int fd, struct svq_vu_message *msg, void *buf, size_t len)
{
    union control control;
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct msghdr hdr = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    ssize_t got = recvmsg(fd, &hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int err;

    if (got < 0)
        return -errno;
    err = take_control(msg, &hdr);
    return err ? err : got;
}

static int recv_all(int fd, struct svq_vu_message *msg, void *buf, size_t len, int64_t deadline)
{
    size_t done = 0;

    while (done < len) {
        ssize_t got = recv_piece(fd, msg, (char *)buf + done, len - done);

        if (got == -EINTR)
            continue;
        if (got == -EAGAIN) {
            int err = wait_for(fd, POLLIN, deadline);

            if (err)
                return err;
            continue;
        }
        if (got < 0)
            return got;
        if (got == 0)
            return done ? -ECONNRESET : 0;
        done += got;
    }
    return 1;
}

int svq_conn_recv(int fd, struct svq_vu_message *msg, int64_t deadline)
{
    int result;

    msg->fd_count = 0;
    result = recv_all(fd, msg, &msg->header, sizeof(msg->header), deadline);
    if (result == 1 && msg->header.size > SVQ_VU_MAX_PAYLOAD)
        result = -EMSGSIZE;
    if (result == 1 && msg->header.size) {
        result = recv_all(fd, msg, &msg->payload, msg->header.size, deadline);
        if (result == 0)
            result = -ECONNRESET;
    }
    if (result != 1)
        svq_message_close_fds(msg);
    return result;
}

/* ---- Sending
 * ------------------------------------------------------------------------------------- */

static void put_control(struct msghdr *hdr, union control *control,
                        const struct svq_vu_message *msg)
{
    struct cmsghdr *c;

    if (!msg->fd_count)
        return;
    memset(control, 0, sizeof(*control));
    hdr->msg_control = control;
    hdr->msg_controllen = CMSG_SPACE(msg->fd_count * sizeof(int));
    c = CMSG_FIRSTHDR(hdr);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(msg->fd_count * sizeof(int));
    memcpy(CMSG_DATA(c), msg->fds, msg->fd_count * sizeof(int));
}

static size_t message_size(const struct svq_vu_message *msg)
{
    return sizeof(msg->header) + msg->header.size;
}

/* Send what is left of a message of which `done` bytes have gone out. */
static int send_rest(int fd, const struct svq_vu_message *msg, size_t done, int64_t deadline)
{
    size_t total = message_size(msg);

    /* Header and payload lie one behind the other in the message, as on the wire. */
    while (done < total) {
        union control control;
        struct iovec iov = {.iov_base = (char *)msg + done, .iov_len = total - done};
        struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
        ssize_t sent;

        if (!done)
            put_control(&hdr, &control, msg);
        sent = sendmsg(fd, &hdr, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            done += sent;
        } else if (errno == EAGAIN) {
            int err = wait_for(fd, POLLOUT, deadline);

            if (err)
                return err;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int svq_conn_send(int fd, const struct svq_vu_message *msg, int64_t deadline)
{
    return send_rest(fd, msg, 0, deadline);
}

int svq_conn_send_pair(int fd, const struct svq_vu_message *first,
                       const struct svq_vu_message *second, int64_t deadline)
{
    const struct svq_vu_message *both[] = {first, second};
    union control control[2];
    struct iovec iov[2];
    struct mmsghdr hdrs[2] = {0};
    int sent, err = 0;

    for (unsigned i = 0; i < 2; i++) {
        iov[i] = (struct iovec){(void *)both[i], message_size(both[i])};
        hdrs[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
        put_control(&hdrs[i].msg_hdr, &control[i], both[i]);
    }
    sent = sendmmsg(fd, hdrs, 2, MSG_DONTWAIT | MSG_NOSIGNAL);
    /* Whatever did not go out, an error included, is left to the patient way. */
    for (int i = 0; i < 2 && !err; i++)
        err = send_rest(fd, both[i], i < sent ? hdrs[i].msg_len : 0, deadline);
    return err;
}
