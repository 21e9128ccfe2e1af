/* SPDX-License-Identifier: BSD-3-Clause */
/* svqd as a whole, from start to end. */
#ifndef SVQ_DAEMON_DAEMON_H
#define SVQ_DAEMON_DAEMON_H

#include "daemon/options.h"

/**
 * svq_daemon_run() - serve until SIGTERM, SIGINT or QMP's quit. Logs what goes wrong.
 *
 * Return: the exit status: 0, or 1 when svqd could not start or run.
 */
int svq_daemon_run(const struct svq_options *options);

#endif
