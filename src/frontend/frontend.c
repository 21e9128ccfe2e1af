/* SPDX-License-Identifier: BSD-3-Clause */
#include "frontend/frontend.h"
#include "base/unix_socket.h"
#include "event/fiber.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNECT_PREFIX "connect:"
#define RETRY          (200 * SVQ_MSEC)

struct svq_frontend {
    struct svq_unix_listener listener; /* server mode */
    char *peer;                        /* client mode: where to connect; else NULL */
};

/* The path to connect to, or NULL when the address is one to listen on. */
static const char *peer_of(const char *address)
{
    size_t len = strlen(CONNECT_PREFIX);

    return strncmp(address, CONNECT_PREFIX, len) ? NULL : address + len;
}

const char *svq_frontend_check(const char *address)
{
    const char *path = peer_of(address);

    if (!path)
        path = address;
    if (!*path)
        return "frontend needs the path of a socket: PATH to listen on, or connect:PATH";
    if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return "the front-end's socket path is longer than a UNIX socket allows (107 bytes)";
    return NULL;
}

int svq_frontend_new(const char *address, struct svq_frontend **out)
{
    struct svq_frontend *frontend = calloc(1, sizeof(*frontend));
    const char *peer = peer_of(address);
    int err = 0;

    if (!frontend)
        return -ENOMEM;
    frontend->listener.fd = -1;
    if (peer) {
        frontend->peer = strdup(peer);
        err = frontend->peer ? 0 : -ENOMEM;
    } else {
        mode_t mask = umask(0);

        /* The VMM usually runs as another user: the operator's umask decides. */
        umask(mask);
        err = svq_unix_listen(&frontend->listener, address, mask);
    }
    if (err) {
        free(frontend);
        return err;
    }
    *out = frontend;
    return 0;
}

void svq_frontend_free(struct svq_frontend *frontend)
{
    if (!frontend)
        return;
    svq_unix_unlisten(&frontend->listener);
    free(frontend->peer);
    free(frontend);
}

int svq_frontend_next(struct svq_frontend *frontend, struct pollfd *poll, int64_t *deadline)
{
    int fd;

    if (frontend->peer) {
        *poll = (struct pollfd){.fd = -1};
        *deadline = svq_deadline(RETRY);
        fd = svq_unix_connect(frontend->peer);
    } else {
        *poll = (struct pollfd){.fd = frontend->listener.fd, .events = POLLIN};
        *deadline = SVQ_FOREVER;
        fd = accept4(frontend->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno != EAGAIN) {
            /* Out of fds or memory: waiting for POLLIN would spin. */
            *poll = (struct pollfd){.fd = -1};
            *deadline = svq_deadline(RETRY);
        }
    }
    return fd < 0 ? -EAGAIN : fd;
}
