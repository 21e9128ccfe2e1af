/* SPDX-License-Identifier: BSD-3-Clause */
/* A device's events as QMP sends them. */
#ifndef SVQ_DAEMON_EVENTS_H
#define SVQ_DAEMON_EVENTS_H

#include <jansson.h>

#include "device/device.h"

/* The whole event, stamped with the present time; a new reference, NULL without memory. */
json_t *svq_event_json(const struct svq_event *event);

#endif
