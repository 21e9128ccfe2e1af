/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/feature_name.h"

#include <stddef.h>

#include <shadowvq/vhost_user.h>

/* RING_PACKED goes by the name that QEMU's option and everybody else gives it. */
static const char *const names[] = {
    [SVQ_F_NOTIFY_ON_EMPTY] = "notify_on_empty",
    [25] = "bit_25",
    [SVQ_F_LOG_ALL] = "log_all",
    [SVQ_F_ANY_LAYOUT] = "any_layout",
    [SVQ_F_INDIRECT_DESC] = "indirect_desc",
    [SVQ_F_EVENT_IDX] = "event_idx",
    [SVQ_F_PROTOCOL_FEATURES] = "protocol_features",
    [31] = "bit_31",
    [SVQ_F_VERSION_1] = "version_1",
    [SVQ_F_ACCESS_PLATFORM] = "access_platform",
    [SVQ_F_RING_PACKED] = "packed",
    [SVQ_F_IN_ORDER] = "in_order",
    [SVQ_F_ORDER_PLATFORM] = "order_platform",
    [SVQ_F_SR_IOV] = "sr_iov",
    [SVQ_F_NOTIFICATION_DATA] = "notification_data",
    [39] = "notif_config_data",
    [SVQ_F_RING_RESET] = "ring_reset",
    [SVQ_FEATURE_NAMED_LAST] = "admin_vq",
};

const char *svq_feature_name(unsigned bit)
{
    return bit <= SVQ_FEATURE_NAMED_LAST ? names[bit] : NULL;
}
