/* SPDX-License-Identifier: BSD-3-Clause */
/* A listening UNIX socket with a name in the file system, for the owner's eyes only. */
#ifndef SVQ_DAEMON_LISTENER_H
#define SVQ_DAEMON_LISTENER_H

#include <sys/types.h>

#include "daemon/failure.h"

struct svq_listener {
    int fd; /* non-blocking; -1: closed */
    char *path;
    dev_t dev; /* which file is ours: another svqd may have taken over the name since */
    ino_t ino;
};

/**
 * svq_listener_open() - bind with mode 0600 and listen.
 *
 * A socket that nobody listens on any more is replaced; a live one, and any other file, is not.
 * Changes the umask for a moment: call it before other threads create files.
 *
 * Return: 0, or -errno with the reason in *failure.
 */
int svq_listener_open(struct svq_listener *listener, const char *path, struct svq_failure *failure);

/* Close, and remove the name if it is still ours. */
void svq_listener_close(struct svq_listener *listener);

#endif
