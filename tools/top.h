/* SPDX-License-Identifier: BSD-3-Clause */
/* svqctl top: what each queue does per second, over and over. */
#ifndef SVQCTL_TOP_H
#define SVQCTL_TOP_H

#include "client.h"

/**
 * svq_top() - show rates until `q` is pressed, the connection breaks or `count` are shown.
 * @interval: seconds between two
 * @count: 0 means no end
 *
 * On a terminal it fills the screen; otherwise it prints one table after the other.
 */
enum svqctl_status svq_top(struct svq_client *client, double interval, unsigned count);

#endif
