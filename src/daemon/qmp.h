/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The QMP server: a UNIX socket, one fiber for each client. A client can slow down nobody but
 * itself: its commands are read while it reads answers, and it is dropped when it lets events pile
 * up.
 */
#ifndef SVQ_DAEMON_QMP_H
#define SVQ_DAEMON_QMP_H

#include "daemon/commands.h"

struct svq_loop;
struct svq_qmp;

/* Clients served at a time; more wait in the socket's queue. */
#define SVQ_QMP_CLIENTS_MAX 32

/**
 * svq_qmp_start() - listen on `path` and serve. On the loop's thread.
 *
 * Return: 0, or -errno with the reason in *failure.
 */
int svq_qmp_start(struct svq_loop *loop, const char *path,
                  const struct svq_command_context *context, struct svq_qmp **out,
                  struct svq_failure *failure);

/* Fiber: send what waits (for a moment at most), close all connections, remove the socket. */
void svq_qmp_stop(struct svq_qmp *qmp);

/* Send an event to every client that has negotiated. Never waits. */
void svq_qmp_event(struct svq_qmp *qmp, const struct svq_event *event);

#endif
