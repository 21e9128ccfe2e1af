/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Is the file at this address a socket without a listener? Return: 0, or why it must stay. */
static int check_stale(const struct sockaddr_un *address)
{
    struct stat st;
    int fd;
    int ret;

    if (lstat(address->sun_path, &st) < 0)
        return -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    ret = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
    close(fd);
    /* -EAGAIN is a listener with a full queue. */
    return ret == -ECONNREFUSED ? 0 : -EADDRINUSE;
}

/* Under a umask, because a chmod after bind would leave a moment for others to connect. */
static int bind_private(int fd, const struct sockaddr_un *address)
{
    mode_t old = umask(0177);
    int ret = bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;

    umask(old);
    return ret;
}

static int bind_and_listen(struct svq_listener *listener, const struct sockaddr_un *address)
{
    struct stat st;
    int ret;

    ret = bind_private(listener->fd, address);
    if (ret == -EADDRINUSE) {
        ret = check_stale(address);
        if (ret == 0)
            ret = unlink(address->sun_path) < 0 ? -errno : bind_private(listener->fd, address);
    }
    if (ret < 0)
        return ret;
    if (lstat(address->sun_path, &st) == 0) {
        listener->dev = st.st_dev;
        listener->ino = st.st_ino;
    }
    return listen(listener->fd, SOMAXCONN) < 0 ? -errno : 0;
}

static int explain(struct svq_failure *failure, const char *path, int error)
{
    svq_fail(failure, "Can't listen on '%s': %s", path, strerror(-error));
    if (error == -EADDRINUSE)
        svq_fail_hint(failure, "Another process listens there; give each svqd a socket of its own");
    else if (error == -EEXIST)
        svq_fail_hint(failure, "There is a file of that name which is no socket; remove it or "
                               "choose another name");
    else if (error == -ENOENT)
        svq_fail_hint(failure, "Its directory must exist");
    return error;
}

int svq_listener_open(struct svq_listener *listener, const char *path, struct svq_failure *failure)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int ret;

    memset(listener, 0, sizeof(*listener));
    listener->fd = -1;
    if (strlen(path) >= sizeof(address.sun_path)) {
        svq_fail(failure,
                 "Can't listen on '%s': the path is longer than the %zu bytes a UNIX "
                 "socket's may be",
                 path, sizeof(address.sun_path) - 1);
        return -ENAMETOOLONG;
    }
    memcpy(address.sun_path, path, strlen(path));

    listener->path = strdup(path);
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (!listener->path || listener->fd < 0)
        ret = listener->path ? -errno : -ENOMEM;
    else
        ret = bind_and_listen(listener, &address);
    if (ret < 0) {
        svq_listener_close(listener);
        return explain(failure, path, ret);
    }
    return 0;
}

void svq_listener_close(struct svq_listener *listener)
{
    struct stat st;

    /* No inode: the bind failed, and the name is somebody else's. */
    if (listener->path && listener->ino != 0 && lstat(listener->path, &st) == 0 &&
        st.st_dev == listener->dev && st.st_ino == listener->ino)
        unlink(listener->path);
    if (listener->fd >= 0)
        close(listener->fd);
    free(listener->path);
    memset(listener, 0, sizeof(*listener));
    listener->fd = -1;
}
