/* SPDX-License-Identifier: BSD-3-Clause */
#include "backend/dial.h"
#include "base/unix_socket.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LISTEN_PREFIX "listen:"
/* A peer that connects and leaves in a tight loop must not keep the control thread to itself. */
#define MAX_DEAD 256

struct svq_dial {
    unsigned refs;
    char *peer;                        /* where to connect; NULL: listen */
    struct svq_unix_listener listener; /* fd -1: connect */
    bool starved;                      /* somebody waits, but there was no fd or memory left */
};

const char *svq_dial_listens(const char *where)
{
    size_t len = strlen(LISTEN_PREFIX);

    return strncmp(where, LISTEN_PREFIX, len) ? NULL : where + len;
}

const char *svq_dial_check(const char *where)
{
    const char *path = svq_dial_listens(where);

    if (path && !*path)
        return "backend=vhost-user:listen: needs the path of a socket to listen on";
    if (!*where)
        return "backend=vhost-user: needs the path of the back-end's socket";
    if (!svq_unix_path_fits(path ? path : where))
        return "the back-end's socket path is longer than a UNIX socket allows (107 bytes)";
    return NULL;
}

int svq_dial_new(const char *where, struct svq_dial **out)
{
    struct svq_dial *dial = calloc(1, sizeof(*dial));
    const char *path = svq_dial_listens(where);
    int err = 0;

    if (!dial)
        return -ENOMEM;
    dial->refs = 1;
    dial->listener.fd = -1;
    /* The back-end usually runs as another user: the operator's umask decides. */
    if (path)
        err = svq_unix_listen(&dial->listener, path, SVQ_UMASK_AS_IS);
    else if (!(dial->peer = strdup(where)))
        err = -ENOMEM;
    if (err) {
        free(dial);
        return err;
    }
    *out = dial;
    return 0;
}

struct svq_dial *svq_dial_ref(struct svq_dial *dial)
{
    dial->refs++;
    return dial;
}

void svq_dial_unref(struct svq_dial *dial)
{
    if (!dial || --dial->refs)
        return;
    svq_unix_unlisten(&dial->listener);
    free(dial->peer);
    free(dial);
}

/* A back-end speaks when it is spoken to, so one that hung up can have left nothing to read. */
static bool hung_up(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};

    return poll(&poll_fd, 1, 0) > 0;
}

int svq_dial_open(struct svq_dial *dial)
{
    if (dial->peer)
        return svq_unix_connect(dial->peer);
    for (unsigned i = 0; i < MAX_DEAD; i++) {
        int fd = svq_unix_accept(dial->listener.fd);

        dial->starved = fd < 0 && fd != -EAGAIN;
        if (fd < 0)
            return fd;
        if (!hung_up(fd))
            return fd;
        close(fd);
    }
    return -EAGAIN;
}

int svq_dial_wait_fd(const struct svq_dial *dial)
{
    /* Starved, POLLIN would be there at once, again and again. */
    return dial->starved ? -1 : dial->listener.fd;
}
