/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which sockets devices listen on. No two ends may listen on one: not two front-ends, not two
 * back-ends that connect to svqd, and not one of each. The kernel would refuse most of it later,
 * but could not say which devices it is about.
 *
 * Of a config only id, frontend and backend count here; both have passed their own checks.
 */
#ifndef SVQ_DAEMON_ADDRESSES_H
#define SVQ_DAEMON_ADDRESSES_H

#include "daemon/failure.h"
#include "device/device.h"

/* Do this device's own two ends differ? Return: 0, or -EINVAL with the reason in *failure. */
int svq_addresses_check(const struct svq_device_config *config, struct svq_failure *failure);

/* Can a device be added next to another? Return: 0, or -EINVAL with the reason in *failure. */
int svq_addresses_compare(const struct svq_device_config *other,
                          const struct svq_device_config *added, struct svq_failure *failure);

#endif
