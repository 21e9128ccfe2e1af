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

/* ---- Receiving ----------------------------------------------------------------------------------
 */

/* Collect the fds that came with a piece of the message. */
static int take_control(struct svq_vu_message *msg, struct msghdr *hdr)
{
    bool surplus = false;

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
    /* There was room for more of them here: so there was none in this process. */
    if ((hdr->msg_flags & MSG_CTRUNC) && msg->fd_count < SVQ_VU_MAX_FDS)
        return -EMFILE;
    return surplus || (hdr->msg_flags & MSG_CTRUNC) ? -EPROTO : 0;
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
            int err = svq_fiber_await(fd, POLLIN, deadline);

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

ssize_t svq_conn_recv_plain(int fd, void *buf, size_t room, int64_t deadline)
{
    struct svq_vu_message stray;

    for (;;) {
        ssize_t got;

        stray.fd_count = 0;
        got = recv_piece(fd, &stray, buf, room);
        svq_message_close_fds(&stray);
        if (got != -EINTR && got != -EAGAIN)
            return got;
        if (got == -EAGAIN) {
            int err = svq_fiber_await(fd, POLLIN, deadline);

            if (err)
                return err;
        }
    }
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

/* ---- Sending ------------------------------------------------------------------------------------
 */

/* Messages in one system call, and the pieces they make. */
#define BURST  64u
#define PIECES 32u

/*
 * On a stream fds go with the first byte of what is sent with them. So a message with fds begins a
 * piece, and those without go with what comes before them: that is less to allocate and to wake
 * for.
 */
struct burst {
    unsigned pieces;
    struct mmsghdr hdrs[PIECES];
    struct iovec iov[BURST]; /* one for each message */
    union control control[PIECES];
};

static void put_control(struct msghdr *hdr, union control *control, const struct svq_packet *packet)
{
    struct cmsghdr *c;

    if (!packet->fd_count)
        return;
    hdr->msg_control = control;
    hdr->msg_controllen = CMSG_SPACE(packet->fd_count * sizeof(int));
    memset(control, 0, hdr->msg_controllen);
    c = CMSG_FIRSTHDR(hdr);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(packet->fd_count * sizeof(int));
    memcpy(CMSG_DATA(c), packet->fds, packet->fd_count * sizeof(int));
}

/* Take off what has gone out. Return: is nothing left? */
static bool sent_of(struct svq_packet *packet, size_t sent)
{
    packet->data = (const char *)packet->data + sent;
    packet->size -= sent;
    packet->fd_count = 0; /* they went with the first byte */
    return !packet->size;
}

/* As many as there is room for. */
static void put_together(struct burst *burst, const struct svq_packet *packets, unsigned count)
{
    burst->pieces = 0;
    for (unsigned i = 0; i < count && i < BURST; i++) {
        const struct svq_packet *packet = &packets[i];
        struct iovec *iov = &burst->iov[i];

        if (!burst->pieces || packet->fd_count) {
            struct msghdr *hdr;

            if (burst->pieces == PIECES)
                return;
            hdr = &burst->hdrs[burst->pieces].msg_hdr;
            *hdr = (struct msghdr){.msg_iov = iov};
            put_control(hdr, &burst->control[burst->pieces++], packet);
        }
        *iov = (struct iovec){(void *)packet->data, packet->size};
        burst->hdrs[burst->pieces - 1].msg_hdr.msg_iovlen++;
    }
}

/* Return: how many have gone out whole, or -errno. */
static int send_burst(int fd, struct svq_packet *packets, unsigned count)
{
    struct burst burst;
    unsigned whole = 0;
    int sent;

    put_together(&burst, packets, count);
    sent = sendmmsg(fd, burst.hdrs, burst.pieces, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return -errno;
    for (int i = 0; i < sent; i++) {
        size_t left = burst.hdrs[i].msg_len;

        for (size_t n = 0; n < burst.hdrs[i].msg_hdr.msg_iovlen; n++, whole++) {
            size_t size = packets[whole].size;

            /* One of which nothing has gone out keeps its fds; it cannot be a piece's first. */
            if (!left || !sent_of(&packets[whole], left < size ? left : size))
                return whole;
            left -= size;
        }
    }
    return whole;
}

int svq_conn_send_packets(int fd, struct svq_packet *packets, unsigned count, int64_t deadline)
{
    while (count) {
        int sent = send_burst(fd, packets, count);

        if (sent == -EAGAIN) {
            int err = svq_fiber_await(fd, POLLOUT, deadline);

            if (err)
                return err;
        } else if (sent < 0 && sent != -EINTR) {
            return sent;
        } else if (sent > 0) {
            packets += sent;
            count -= sent;
        }
    }
    return 0;
}

struct svq_packet svq_packet_of(const struct svq_vu_message *msg)
{
    /* Header and payload lie one behind the other in the message, as on the wire. */
    return (struct svq_packet){
        .data = msg,
        .size = sizeof(msg->header) + msg->header.size,
        .fds = msg->fds,
        .fd_count = msg->fd_count,
    };
}

int svq_conn_send(int fd, const struct svq_vu_message *msg, int64_t deadline)
{
    struct svq_packet packet = svq_packet_of(msg);

    return svq_conn_send_packets(fd, &packet, 1, deadline);
}
