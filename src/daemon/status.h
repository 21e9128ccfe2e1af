/* SPDX-License-Identifier: BSD-3-Clause */
/* What query-devices and query-queues answer. docs/qmp.md describes the members. */
#ifndef SVQ_DAEMON_STATUS_H
#define SVQ_DAEMON_STATUS_H

#include <jansson.h>

#include "daemon/registry.h"

/* New references; NULL without memory. */
json_t *svq_status_devices(const struct svq_registry *registry);
/* @device: NULL means all. */
json_t *svq_status_queues(const struct svq_registry *registry, const struct svq_device *device);

#endif
