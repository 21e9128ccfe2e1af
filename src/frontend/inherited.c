/* SPDX-License-Identifier: BSD-3-Clause */
#include "frontend/inherited.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_PASSED 3         /* sd_listen_fds(3) */
#define NAMELESS     "unknown" /* likewise: what all are called when no names were passed */

/* A whole number, as it stands in the environment and in fd:N. Return: -1 for anything else. */
static int number_of(const char *text)
{
    long value = 0;

    if (!text || !*text)
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        value = value * 10 + *text - '0';
        if (value > INT_MAX)
            return -1;
    }
    return (int)value;
}

static bool is_number(const char *text)
{
    return *text && !text[strspn(text, "0123456789")];
}

/* ---- Names --------------------------------------------------------------------------------- */

/* How many sockets did systemd pass? */
static int passed(const char **why)
{
    int count = number_of(getenv("LISTEN_FDS"));
    int pid = number_of(getenv("LISTEN_PID"));

    if (count <= 0)
        *why = "frontend=fd:NAME: systemd has passed no socket ($LISTEN_FDS)";
    else if (pid != getpid())
        *why = "frontend=fd:NAME: $LISTEN_FDS is meant for another process ($LISTEN_PID)";
    else
        return count;
    return -1;
}

static int find_name(const char *wanted, const char **why)
{
    const char *name = getenv("LISTEN_FDNAMES");
    int count = passed(why);
    int found = -1;

    for (int i = 0; i < count; i++) {
        size_t len = name ? strcspn(name, ":") : strlen(NAMELESS);

        if (strlen(wanted) == len && !strncmp(name ? name : NAMELESS, wanted, len)) {
            if (found >= 0) {
                *why = "frontend=fd:NAME: several sockets of that name were passed; use fd:N";
                return -1;
            }
            found = FIRST_PASSED + i;
        }
        if (name && !name[len])
            break;
        if (name)
            name += len + 1;
    }
    if (count > 0 && found < 0)
        *why = "frontend=fd:NAME: no socket of that name was passed ($LISTEN_FDNAMES)";
    return found;
}

/* ---- Sockets ------------------------------------------------------------------------------- */

static int option(int fd, int name)
{
    int value;
    socklen_t len = sizeof(value);

    return getsockopt(fd, SOL_SOCKET, name, &value, &len) < 0 ? -1 : value;
}

static const char *check(int fd)
{
    int flags = fcntl(fd, F_GETFD);

    if (flags < 0)
        return "frontend=fd: that file descriptor is not open";
    /* All that svqd opens by itself is closed on exec; what it was started with cannot be. */
    if (flags & FD_CLOEXEC)
        return "frontend=fd: that file descriptor was not passed to svqd";
    if (option(fd, SO_TYPE) < 0)
        return "frontend=fd: that file descriptor is not a socket";
    if (option(fd, SO_DOMAIN) != AF_UNIX || option(fd, SO_TYPE) != SOCK_STREAM)
        return "frontend=fd: that is not a UNIX stream socket";
    if (option(fd, SO_ACCEPTCONN) != 1)
        return "frontend=fd: that socket does not listen";
    return NULL;
}

int svq_inherited_find(const char *which, const char **why)
{
    int fd;

    *why = NULL;
    if (!*which) {
        *why = "frontend=fd: needs the number of a socket, or the name of one that systemd passes";
        return -1;
    }
    fd = is_number(which) ? number_of(which) : find_name(which, why);
    if (!*why)
        *why = check(fd);
    return *why ? -1 : fd;
}

int svq_inherited_take(const char *which)
{
    const char *why;
    int fd = svq_inherited_find(which, &why);
    int flags, copy;

    if (fd < 0)
        return -EBADF;
    /* Another process may take the connection that we are woken for: accept() must not wait. */
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    /* A copy: when its device is deleted, the next one can have the socket. */
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

bool svq_inherited_same(const char *a, const char *b)
{
    struct stat first, second;
    const char *why;
    int one = svq_inherited_find(a, &why);
    int other = svq_inherited_find(b, &why);

    return one >= 0 && other >= 0 && !fstat(one, &first) && !fstat(other, &second) &&
           first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}
