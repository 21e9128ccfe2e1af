/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/unix_socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

bool svq_unix_path_fits(const char *path)
{
    return strlen(path) < sizeof(((struct sockaddr_un *)0)->sun_path);
}

static int set_address(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    /* The empty path would be an address of Linux's abstract namespace. */
    if (!*path)
        return -EINVAL;
    if (!svq_unix_path_fits(path))
        return -ENAMETOOLONG;
    memcpy(address->sun_path, path, strlen(path));
    return 0;
}

int svq_unix_connect(const char *path)
{
    struct sockaddr_un address;
    int err = set_address(&address, path);
    int fd;

    if (err)
        return err;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
        return fd;
    err = -errno;
    close(fd);
    return err;
}

int svq_unix_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    return fd < 0 ? -errno : fd;
}

/* Is the file at this path a socket without a listener? Return: 0, or why it must stay. */
static int check_stale(const char *path)
{
    struct stat st;
    int fd;

    if (lstat(path, &st) < 0)
        return -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    fd = svq_unix_connect(path);
    if (fd >= 0)
        close(fd);
    /* -EAGAIN is a listener with a full backlog. */
    return fd == -ECONNREFUSED ? 0 : -EADDRINUSE;
}

static int bind_masked(int fd, const struct sockaddr_un *address, mode_t mask)
{
    mode_t old = mask == SVQ_UMASK_AS_IS ? 0 : umask(mask);
    int err = bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;

    if (mask != SVQ_UMASK_AS_IS)
        umask(old);
    return err;
}

static int bind_and_listen(struct svq_unix_listener *listener, const struct sockaddr_un *address,
                           mode_t mask)
{
    struct stat st;
    int err = bind_masked(listener->fd, address, mask);

    if (err == -EADDRINUSE) {
        err = check_stale(listener->path);
        if (!err)
            err = unlink(listener->path) < 0 ? -errno : bind_masked(listener->fd, address, mask);
    }
    if (err)
        return err;
    if (!lstat(listener->path, &st)) {
        listener->dev = st.st_dev;
        listener->ino = st.st_ino;
    }
    return listen(listener->fd, SOMAXCONN) < 0 ? -errno : 0;
}

int svq_unix_listen(struct svq_unix_listener *listener, const char *path, mode_t mask)
{
    struct sockaddr_un address;
    int err;

    *listener = (struct svq_unix_listener){.fd = -1};
    err = set_address(&address, path);
    if (err)
        return err;
    listener->path = strdup(path);
    if (!listener->path)
        return -ENOMEM;
    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    err = listener->fd < 0 ? -errno : bind_and_listen(listener, &address, mask);
    if (err)
        svq_unix_unlisten(listener);
    return err;
}

void svq_unix_unlisten(struct svq_unix_listener *listener)
{
    struct stat st;

    /* No inode: the bind failed, and the name is somebody else's. */
    if (listener->path && listener->ino && !lstat(listener->path, &st) &&
        st.st_dev == listener->dev && st.st_ino == listener->ino)
        unlink(listener->path);
    if (listener->fd >= 0)
        close(listener->fd);
    free(listener->path);
    *listener = (struct svq_unix_listener){.fd = -1};
}
