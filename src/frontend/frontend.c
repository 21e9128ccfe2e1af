/* SPDX-License-Identifier: BSD-3-Clause */
#include "frontend/frontend.h"
#include "base/log.h"
#include "base/unix_socket.h"
#include "event/fiber.h"
#include "frontend/inherited.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_PREFIX "connect:"
#define FD_PREFIX      "fd:"
#define RETRY          (200 * SVQ_MSEC)

struct svq_frontend {
    struct svq_unix_listener listener; /* ours, or an inherited one (which has no path) */
    char *peer;                        /* where to connect instead; else NULL */
    bool told;                         /* that somebody has to wait */
};

/* What follows the prefix, or NULL when the address has another. */
static const char *after(const char *address, const char *prefix)
{
    size_t len = strlen(prefix);

    return strncmp(address, prefix, len) ? NULL : address + len;
}

const char *svq_frontend_check(const char *address)
{
    const char *which = after(address, FD_PREFIX);
    const char *path = after(address, CONNECT_PREFIX);
    const char *why;

    if (which) {
        svq_inherited_find(which, &why);
        return why;
    }
    if (!path)
        path = address;
    if (!*path)
        return "frontend needs the path of a socket: PATH to listen on, or connect:PATH";
    if (!svq_unix_path_fits(path))
        return "the front-end's socket path is longer than a UNIX socket allows (107 bytes)";
    return NULL;
}

const char *svq_frontend_listens(const char *address)
{
    return after(address, FD_PREFIX) || after(address, CONNECT_PREFIX) ? NULL : address;
}

bool svq_frontend_same(const char *a, const char *b)
{
    const char *first = after(a, FD_PREFIX), *second = after(b, FD_PREFIX);

    return first && second ? svq_inherited_same(first, second) : !strcmp(a, b);
}

/* A socket that listens for this address. */
static int listen_at(struct svq_unix_listener *listener, const char *address)
{
    const char *which = after(address, FD_PREFIX);

    /* The VMM usually runs as another user: the operator's umask decides. */
    if (!which)
        return svq_unix_listen(listener, address, SVQ_UMASK_AS_IS);
    listener->fd = svq_inherited_take(which);
    return listener->fd < 0 ? listener->fd : 0;
}

int svq_frontend_new(const char *address, struct svq_frontend **out)
{
    struct svq_frontend *frontend = calloc(1, sizeof(*frontend));
    const char *peer = after(address, CONNECT_PREFIX);
    int err = 0;

    if (!frontend)
        return -ENOMEM;
    frontend->listener.fd = -1;
    if (!peer)
        err = listen_at(&frontend->listener, address);
    else if (!(frontend->peer = strdup(peer)))
        err = -ENOMEM;
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

/* Somebody waits at the door, and cannot be let in. */
static void tell_once(struct svq_frontend *frontend, int err)
{
    if (frontend->told)
        return;
    frontend->told = true;
    svq_error(NULL, "a front-end at %s has to wait: %s%s",
              frontend->listener.path ? frontend->listener.path : "an inherited socket",
              strerror(-err), err == -EMFILE ? " (ulimit -n, or LimitNOFILE= of the service)" : "");
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
        fd = svq_unix_accept(frontend->listener.fd);
        if (fd < 0 && fd != -EAGAIN) {
            /* Out of fds or memory: waiting for POLLIN would spin. */
            *poll = (struct pollfd){.fd = -1};
            *deadline = svq_deadline(RETRY);
            tell_once(frontend, fd);
        } else if (fd >= 0) {
            frontend->told = false;
        }
    }
    return fd < 0 ? -EAGAIN : fd;
}
