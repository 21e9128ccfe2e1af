/* SPDX-License-Identifier: BSD-3-Clause */
/* Tell the service manager how we are: systemd's sd_notify protocol. */
#ifndef SVQ_DAEMON_NOTIFY_H
#define SVQ_DAEMON_NOTIFY_H

/**
 * svq_notify() - send e.g. "READY=1" to $NOTIFY_SOCKET; without that variable do nothing.
 *
 * Return: 0 or -errno.
 */
int svq_notify(const char *state);

#endif
