/* SPDX-License-Identifier: BSD-3-Clause */
/* How svqctl shows what svqd answers. */
#ifndef SVQCTL_SHOW_H
#define SVQCTL_SHOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "table.h"

/* One element of query-devices, over several lines. */
void svq_show_device(const json_t *device, FILE *out);

/*
 * "running", "disabled", "stopped", "broken", or "paused" for want of a back-end.
 * @device: the queue's; an element of query-devices
 */
const char *svq_show_queue_state(const json_t *queue, const json_t *device);

/* Was the device's back-end lost or refused under its front-end? */
bool svq_show_link_away(const json_t *device);

/* "lost: REASON; 3 attempts to reach it"; nothing unless it is away. */
void svq_show_link(const json_t *device, FILE *out);

/* A cell with the queue's worker: only a shadowed queue has one. */
void svq_show_worker(struct svq_table *table, const json_t *queue);

#endif
