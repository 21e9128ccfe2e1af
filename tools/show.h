/* SPDX-License-Identifier: BSD-3-Clause */
/* How svqctl shows what svqd answers. */
#ifndef SVQCTL_SHOW_H
#define SVQCTL_SHOW_H

#include <jansson.h>
#include <stdio.h>

#include "table.h"

/* One element of query-devices, over several lines. */
void svq_show_device(const json_t *device, FILE *out);

/* One event on one line. */
void svq_show_event(const json_t *event, FILE *out);

/* "running", "disabled", "stopped" or "broken". */
const char *svq_show_queue_state(const json_t *queue);

/* A cell with the queue's worker: only a shadowed queue has one. */
void svq_show_worker(struct svq_table *table, const json_t *queue);

#endif
