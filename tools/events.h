/* SPDX-License-Identifier: BSD-3-Clause */
/* How svqctl shows what svqd reports. */
#ifndef SVQCTL_EVENTS_H
#define SVQCTL_EVENTS_H

#include <jansson.h>
#include <stdio.h>

/* One event on one line: when, its name, the device, and what happened in words. */
void svq_show_event(const json_t *event, FILE *out);

#endif
