/* SPDX-License-Identifier: BSD-3-Clause */
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Room for the fds of one message, aligned as a control message must be. */
union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * SVQ_VU_MAX_FDS)];
};

static int send_all(int sock, const void *data, size_t len)
{
    const char *pos = data;

    while (len) {
        ssize_t sent = send(sock, pos, len, MSG_NOSIGNAL);

        if (sent < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        pos += sent;
        len -= (size_t)sent;
    }
    return 0;
}

int wire_send(int sock, const struct svq_vu_message *msg)
{
    size_t total = SVQ_VU_HEADER_SIZE + msg->header.size;
    size_t fd_bytes = sizeof(int) * msg->fd_count;
    char buffer[SVQ_VU_HEADER_SIZE + SVQ_VU_MAX_PAYLOAD];
    union control control = {0};
    struct iovec iov = {.iov_base = buffer, .iov_len = total};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t sent;

    if (msg->header.size > SVQ_VU_MAX_PAYLOAD || msg->fd_count > SVQ_VU_MAX_FDS)
        return -EMSGSIZE;

    memcpy(buffer, &msg->header, SVQ_VU_HEADER_SIZE);
    memcpy(buffer + SVQ_VU_HEADER_SIZE, &msg->payload, msg->header.size);
    if (msg->fd_count) {
        hdr.msg_control = control.bytes;
        hdr.msg_controllen = CMSG_SPACE(fd_bytes);
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(fd_bytes);
        memcpy(CMSG_DATA(&control.align), msg->fds, fd_bytes);
    }

    do
        sent = sendmsg(sock, &hdr, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return -errno;
    return send_all(sock, buffer + sent, total - (size_t)sent);
}

/* recvmsg() of at most len bytes; appends the fds that came along. Return: bytes or -errno. */
static ssize_t receive_some(int sock, void *data, size_t len, struct svq_vu_message *msg)
{
    union control control;
    struct iovec iov = {.iov_base = data, .iov_len = len};
    struct msghdr hdr = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control)};
    ssize_t got = recvmsg(sock, &hdr, MSG_CMSG_CLOEXEC);

    if (got < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&hdr); c; c = CMSG_NXTHDR(&hdr, c)) {
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (msg->fd_count < SVQ_VU_MAX_FDS)
                msg->fds[msg->fd_count++] = fd;
            else
                close(fd);
        }
    }
    return hdr.msg_flags & MSG_CTRUNC ? -EBADF : got;
}

static int receive_all(int sock, void *data, size_t len, struct svq_vu_message *msg)
{
    char *pos = data;

    while (len) {
        ssize_t got = receive_some(sock, pos, len, msg);

        if (got == -EINTR)
            continue;
        if (got < 0)
            return (int)got;
        if (got == 0)
            return pos == (char *)data ? -ENOTCONN : -ECONNRESET;
        pos += got;
        len -= (size_t)got;
    }
    return 0;
}

int wire_receive(int sock, struct svq_vu_message *msg)
{
    int ret;

    msg->fd_count = 0;
    ret = receive_all(sock, &msg->header, SVQ_VU_HEADER_SIZE, msg);
    if (!ret && msg->header.size > SVQ_VU_MAX_PAYLOAD)
        ret = -EMSGSIZE;
    if (!ret) {
        ret = receive_all(sock, &msg->payload, msg->header.size, msg);
        if (ret == -ENOTCONN)
            ret = -ECONNRESET;
    }
    if (ret)
        wire_close_fds(msg);
    return ret;
}

void wire_close_fds(struct svq_vu_message *msg)
{
    for (unsigned i = 0; i < msg->fd_count; i++) {
        if (msg->fds[i] >= 0)
            close(msg->fds[i]);
    }
    msg->fd_count = 0;
}

int wire_take_fd(struct svq_vu_message *msg)
{
    int fd = -1;

    if (msg->fd_count) {
        fd = msg->fds[0];
        msg->fds[0] = -1;
    }
    return fd;
}

static int unix_address(const char *path, struct sockaddr_un *addr)
{
    memset(addr, 0, sizeof(*addr));
    addr->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(addr->sun_path))
        return -ENAMETOOLONG;
    strcpy(addr->sun_path, path);
    return 0;
}

int wire_listen(const char *path)
{
    struct sockaddr_un addr;
    int ret = unix_address(path, &addr);
    int sock;

    if (ret)
        return ret;
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0)
        return -errno;
    if (bind(sock, (struct sockaddr *)&addr, sizeof(addr)) || listen(sock, 8)) {
        ret = -errno;
        close(sock);
        return ret;
    }
    return sock;
}

int wire_connect(const char *path, int timeout_ms)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    struct sockaddr_un addr;
    int ret = unix_address(path, &addr);

    if (ret)
        return ret;
    for (int waited = 0;; waited += 5) {
        int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (sock < 0)
            return -errno;
        if (!connect(sock, (struct sockaddr *)&addr, sizeof(addr)))
            return sock;
        ret = -errno;
        close(sock);
        if ((ret != -ENOENT && ret != -ECONNREFUSED) || waited >= timeout_ms)
            return ret;
        if (nanosleep(&pause, NULL))
            return -errno;
    }
}

int wire_set_timeout(int sock, int timeout_ms)
{
    struct timeval tv = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};

    if (setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
        setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)))
        return -errno;
    return 0;
}
