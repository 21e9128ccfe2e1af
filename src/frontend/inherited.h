/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Listening sockets that svqd was started with: it takes them from its parent by number, or from
 * systemd by name (sd_listen_fds(3)). Whoever made such a socket keeps it, so front-ends that
 * connect while no svqd runs wait in its backlog for the next one. Control thread.
 */
#ifndef SVQ_FRONTEND_INHERITED_H
#define SVQ_FRONTEND_INHERITED_H

#include <stdbool.h>

/**
 * svq_inherited_find() - a UNIX stream socket that listens.
 * @which: a number, or a name of $LISTEN_FDNAMES
 * @why: on failure a static text that says what is wrong
 *
 * Return: its fd, which stays open for the next to ask for it; or -1.
 */
int svq_inherited_find(const char *which, const char **why);

/**
 * svq_inherited_take() - one's own fd for it, non-blocking (for everybody who has it) and closed on
 * exec.
 *
 * Return: an fd or -errno.
 */
int svq_inherited_take(const char *which);

/* Do both mean one socket? A socket may have several fds. */
bool svq_inherited_same(const char *a, const char *b);

#endif
