/* SPDX-License-Identifier: BSD-3-Clause */
/* UNIX stream sockets by path: all non-blocking and closed on exec. */
#ifndef SVQ_BASE_UNIX_SOCKET_H
#define SVQ_BASE_UNIX_SOCKET_H

#include <stdbool.h>
#include <sys/types.h>

/* The umask stays the operator's. */
#define SVQ_UMASK_AS_IS ((mode_t)-1)

struct svq_unix_listener {
    int fd; /* -1: closed */
    char *path;
    dev_t dev; /* which file is ours: another process may have taken over the name since */
    ino_t ino;
};

/* Does this path fit into a socket's address? */
bool svq_unix_path_fits(const char *path);

/**
 * svq_unix_listen() - bind and listen. A socket that nobody listens on any more is replaced; a live
 * one, and any other file, is not.
 * @mask: umask while binding, because a chmod afterwards would leave a moment for others to
 *        connect; call before other threads create files, or from the control thread.
 *        Or SVQ_UMASK_AS_IS
 *
 * Return: 0, -EADDRINUSE (somebody listens there), -EEXIST (no socket), -ENAMETOOLONG, or the
 * socket's error.
 */
int svq_unix_listen(struct svq_unix_listener *listener, const char *path, mode_t mask);

/* Close, and remove the name if it is still ours. */
void svq_unix_unlisten(struct svq_unix_listener *listener);

/* Return: a connection that waited; -EAGAIN when there is none; or the socket's -errno. */
int svq_unix_accept(int listener);

/* Return: a connected socket or -errno; a UNIX socket connects at once or not at all. */
int svq_unix_connect(const char *path);

#endif
